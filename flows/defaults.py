"""Settings of Prefect and MLflow that our entry points choose where the user has not. Applied before either is imported."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path

from posttrain.runtime import redaction
from posttrain.runtime.trees import is_shared

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # our entry points print each failure once themselves
    "PREFECT_CLI_COLORS": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 7, its own default, wait for minutes; what is not logged is sent later
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the tracking server's address, with whatever it holds
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Idle threads that spin take the cores that a neighbour needs (two jobs on two cores take 3.4 times as long), and to wake one
    # that sleeps takes longer than many an operation. A thousand turns, some 10 µs, cost 7% beside a neighbour and save a quarter
    # of a step of a real model in bfloat16.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "1000",
    # oneDNN keeps a program for each shape of a product in bfloat16, 1,024 of them unless told: 0.6 GB after 40 steps of a real
    # model. A pass through a decoder with LoRA has some 30 shapes.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    "TOKENIZERS_PARALLELISM": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",  # the libraries' bars; ours are of rich
}


def apply(root: Path) -> None:
    """Set the defaults, and have logs pass the filter; without a Prefect server of the user's, its database lies in the store.

    What is written into a store that a group shares, the group may write.
    """
    redaction.install()
    # peft asks transformers for a property under its old name: nothing a user could change.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_LOGGING_CONFIG_PATH", _logging_of_prefect())
    if "PREFECT_API_URL" not in os.environ:
        os.environ.setdefault("PREFECT_HOME", str(_prefect_home(root)))
    if is_shared(root):
        os.umask(0o002)


def _logging_of_prefect() -> str:
    """Prefect's own file: one that it finds in its home or by a `prefect.toml` of the working directory may call any function."""
    found = importlib.util.find_spec("prefect")
    assert found
    assert found.origin
    return str(Path(found.origin).with_name("logging") / "logging.yml")


def _prefect_home(root: Path) -> Path:
    """A folder of this user: Prefect's database and settings are no part of what a shared store shares."""
    common = root / "prefect"
    try:
        return common if common.lstat().st_uid == os.getuid() else root / f"prefect-{os.getuid()}"
    except FileNotFoundError:
        return root / f"prefect-{os.getuid()}" if is_shared(root) else common
