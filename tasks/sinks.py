"""Other trackers that get the numbers of a run beside MLflow: one small protocol, and what each library needs to speak it.

Both libraries keep what their server does not take, so a point counts as told once the library has it: the last step is noted in
the folder of the run, and a stage that resumes or a process that is started again tells none twice.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from posttrain.pipeline.chain import Chain
from posttrain.runtime.store import Stored
from posttrain.runtime.writing import write_atomically
from schemas.results import Metrics
from schemas.secrets import without_credentials
from tasks import live_curve
from tasks.open_runs import run_folder
from tasks.tracking import never_fatal

Point = dict[str, float]


class Sink(Protocol):
    """One stage of one run in a tracker."""

    def log(self, point: Point, step: int) -> None:
        """Take the numbers of one step."""

    def close(self, numbers: Metrics) -> None:
        """Take the stage's final numbers, and end."""


class WandB:
    """Weights & Biases: a run for each stage, all of one run in a group. `WANDB_MODE=offline` needs no account."""

    def __init__(self, name: str, group: str, project: str, config: dict[str, Any], folder: Path) -> None:
        import wandb

        self.run = wandb.init(
            project=project, id=f"{group}-{name}", name=name, group=group, config=config, dir=folder, resume="allow",
            reinit="create_new", settings=wandb.Settings(silent=True, disable_git=True, save_code=False, console="off"),
        )  # fmt: skip

    def log(self, point: Point, step: int) -> None:
        self.run.log(point, step=step)

    def close(self, numbers: Metrics) -> None:
        self.run.summary.update(numbers)
        self.run.finish()


class Trackio:
    """Trackio: a run for each stage in a local SQLite file (`TRACKIO_DIR`, by default in the store), read by `trackio show`."""

    def __init__(self, name: str, group: str, project: str, config: dict[str, Any], folder: Path) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(folder / "trackio"))  # read at the import
        import trackio

        self.run = trackio.init(
            project=project, name=f"{group}-{name}", group=group, config=config, resume="allow", embed=False, auto_log_gpu=False,
            auto_log_cpu=False,
        )  # fmt: skip

    def log(self, point: Point, step: int) -> None:
        self.run.log(point, step=step)

    def close(self, numbers: Metrics) -> None:
        self.run.log({f"final/{name}": value for name, value in numbers.items()})
        self.run.finish()


SINKS: dict[str, Callable[..., Sink]] = {"wandb": WandB, "trackio": Trackio}
_open: dict[tuple[str, str, str], Sink] = {}
_lock = threading.RLock()  # the thread of the live curve may still be at work when the stage is finished


class Copy:
    """A stage's curve on its way to a sink; has `send`, as `live_curve.Curve` has."""

    def __init__(self, sink: Sink, curve: Path, note: Path) -> None:
        self.sink, self.curve, self.note = sink, curve, note

    def send(self) -> int:
        """Tell the points that the sink does not have; returns how many they were."""
        with _lock:
            return self._send()

    def _send(self) -> int:
        told = int(self.note.read_text()) if self.note.exists() else -1
        points, _ = live_curve.read_points(self.curve, 0)
        new = [point for point in points if point["step"] > told]
        for point in new:
            step = int(point["step"])
            self.sink.log({f"{live_curve.PREFIX}{name}": value for name, value in point.items() if name != "step"}, step)
            self.note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.note, str(step))
        return len(new)


def _opened(sink: str, chain: Chain, run_id: str, stage: str) -> Sink:
    """The sink of a stage, which stays open in this process until the stage is finished."""
    recipe, folder = chain.recipe, chain.store.root / "tracking"
    with _lock:
        if (known := (sink, run_id, stage)) not in _open:
            folder.mkdir(parents=True, exist_ok=True)
            config = json.loads(without_credentials(recipe.model_dump_json()))
            _open[known] = SINKS[sink](stage, run_id, recipe.tracking.experiment, {"recipe": config}, folder)
        return _open[known]


def _copy(sink: str, chain: Chain, run_id: str, stage: str, curve: Path) -> Copy:
    note = run_folder(chain.store.root, run_id, "run_id") / f"{stage}.{sink}"
    return Copy(_opened(sink, chain, run_id, stage), curve, note)


@contextmanager
def live(chain: Chain, run_id: str, stage: str, curve: Path) -> Iterator[None]:
    """Tell every sink of the recipe the points of a curve while it grows."""
    with ExitStack() as stack:
        for sink in chain.recipe.tracking.also:
            stack.enter_context(live_curve.live(functools.partial(_copy, sink, chain, run_id, stage, curve)))
        yield


def finish(chain: Chain, run_id: str, stored: Stored) -> None:
    """Tell every sink the rest of a finished stage; a failure is a warning."""
    for sink in chain.recipe.tracking.also:
        _finish(sink, chain, run_id, stored)


@never_fatal
def _finish(sink: str, chain: Chain, run_id: str, stored: Stored) -> None:
    done = run_folder(chain.store.root, run_id, "run_id") / f"{stored.result.stage}.{sink}.done"
    if done.exists():
        return
    copy = _copy(sink, chain, run_id, stored.result.stage, stored.folder / "curve.jsonl")
    copy.send()
    copy.sink.close(stored.result.metrics)
    del _open[sink, run_id, stored.result.stage]
    done.parent.mkdir(parents=True, exist_ok=True)
    done.touch()
