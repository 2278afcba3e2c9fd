"""One side of a comparison is a process: how it is called, and what it reports. Standard library only.

A process that forks inherits the peak memory of its parent, so the parent imports nothing large.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from schemas.errors import Refusal

ROOT = Path(__file__).resolve().parents[1]
REFUSED = 2  # exit code of a process that has said why on stderr
TRL = ROOT / ".bench" / "trl" / "bin" / "python"
TRL_PPO = ROOT / ".bench" / "trl-ppo" / "bin" / "python"  # the last TRL that has PPO

# The code of another checkout under the benchmark of this one: its packages are imported before this root comes first.
_FROM_CHECKOUT = (
    "import runpy, sys; sys.path.insert(0, {tree!r}); import posttrain, schemas; sys.path[0] = {root!r};"
    "runpy.run_module('bench.ours', run_name='__main__', alter_sys=True)"
)


@dataclass(frozen=True)
class Measured:
    """What one process measured."""

    losses: list[float]
    """Of each step."""
    seconds: list[float]
    """Wall clock of each step."""
    cpu_seconds: list[float]
    """Processor time of each step, over all threads."""
    reference_seconds: float
    """Wall clock of the reference's log-probabilities of all rows before the first step; 0 where the step computes them."""
    reference_cpu_seconds: float
    """Processor time of the same."""
    peak_gb: float
    """Most resident memory of the process."""
    before_training_gb: float
    """The same before the first step: interpreter, libraries, weights, reference pass."""
    gpu_gb: float | None
    """Most memory allocated on the GPU."""
    note: str
    """How this side was set."""
    facts: dict[str, float] = field(default_factory=dict)
    """What else it measured, by name: means over the steps."""

    def write(self, path: Path) -> None:
        """As JSON, for the parent process."""
        path.write_text(json.dumps(asdict(self)))


def commands(before: Path | None) -> dict[str, list[str]]:
    """Sides by name, in the order in which they alternate; `before` is another checkout of this repository."""
    sides = {
        "ours": [sys.executable, "-m", "bench.ours"],
        "trl_defaults": [str(TRL), "-m", "bench.peers.trl", "--setting", "defaults"],
        "trl_best": [str(TRL), "-m", "bench.peers.trl", "--setting", "best"],
    }
    if before:
        sides["before"] = [sys.executable, "-c", _FROM_CHECKOUT.format(tree=str(before.resolve()), root=str(ROOT))]
    return sides


def refuse_without_peer(peer: Path) -> None:
    """Refuse to compare with a peer whose interpreter is not there."""
    if not peer.exists():
        raise Refusal(
            where=str(peer.relative_to(ROOT)),
            found="nothing",
            allowed="the peer's virtual environment",
            remedy="run `make peers` first",
        )


def refuse_without_cuda(device: str) -> None:
    """Refuse `cuda` where torch sees no such device. Asked in a process of its own: this one must stay small."""
    asked = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if device == "cuda" and subprocess.run([sys.executable, "-c", asked], capture_output=True).returncode:
        raise Refusal(
            where="--device",
            found="cuda, and no CUDA device is visible",
            allowed="cpu here",
            remedy="use --device cpu, or a machine with a GPU",
        )


def run(command: list[str], folder: Path, threads: int | None) -> Measured:
    """What one side measures on the workload in `folder`; `threads` of each operator, by default all cores.

    Raises:
        RuntimeError: when the process failed; the end of what it wrote is in the message.
    """
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        call([*command, str(folder), str(result)], threads)
        return Measured(**json.loads(result.read_text()))


def call(command: list[str], threads: int | None = None) -> str:
    """Standard output of a process in the repository's root that may download nothing. What it refuses ends this one too."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS"), str(threads)) if threads else {}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode == REFUSED:
        sys.stderr.write(done.stderr)
        sys.exit(REFUSED)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def arguments() -> argparse.Namespace:
    """The command line of a side, seen from inside."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="workload.json and model/")
    parser.add_argument("result", type=Path, help="JSON file to write")
    parser.add_argument("--setting", choices=["defaults", "best", "trunk", "adapter"], help="how the side is set")
    return parser.parse_args()


def peak_gb() -> float:
    """Most resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def clocks() -> tuple[float, float]:
    """Wall clock and processor time of this process in seconds."""
    return time.monotonic(), time.process_time()
