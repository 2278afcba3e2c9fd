"""Training checkpoints: everything that the next step depends on, written whole or not at all.

    FOLDER/<step>/trainable.safetensors    the trained tensors, whole also where they are sharded
    FOLDER/<step>/state.pt                 optimizer, loss scale, position, what the round collected, every process's random state
    FOLDER/best/<step>.safetensors         the trained tensors with the lowest validation loss, where these are the result

All processes of a run must call these functions together; the main one writes, all read.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from posttrain.peft.wrap import load_trainable, trainable_state
from posttrain.runtime.disk import writing
from posttrain.runtime.distributed import barrier, full, gathered, is_main, rank, sharded_like
from posttrain.runtime.trees import remove
from posttrain.training.objectives import Rounds

BEST = "best"


@dataclass
class Position:
    """Where training stands."""

    step: int = 0
    """Finished optimizer steps."""
    tokens: int = 0
    """Tokens processed, prompts included."""
    skipped: int = 0
    """Steps skipped because loss or gradient was not finite."""
    in_a_row: int = 0
    """Skipped steps since the last one that was taken."""
    seconds: float = 0.0
    """Time spent in steps, over all attempts."""
    overflows: int = 0
    """Steps skipped because a gradient overflowed under the loss scale of float16, which then halved."""
    best_loss: float = math.inf
    """Lowest validation loss so far, the one before the first step included."""
    best_step: int = 0
    """Step after which it was measured; 0 is before the first."""
    level: float = math.inf
    """Validation loss that the next one must undercut by `min_delta` to count as an improvement."""
    stale: int = 0
    """Validations since the last improvement."""


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position,
    scaler: torch.amp.GradScaler | None = None, rounds: Rounds | None = None,
) -> None:  # fmt: skip
    """Write `folder/<step>` through a scratch folder and a rename, then drop what it supersedes."""
    trainable = _trainable_on_host(model)
    state = {
        "optimizer": _with_tensors(optimizer.state_dict(), lambda index, tensor: _on_host(tensor)),
        "scaler": scaler.state_dict() if scaler else {},
        "position": asdict(position),
        "random": gathered(_random_state()),
        "rounds": dict(rounds.state()) if rounds else {},
    }
    if is_main():
        target = folder / f"{position.step:09d}"
        with _replacing(target, [trainable, state]) as scratch:
            scratch.mkdir()
            save_file(trainable, scratch / "trainable.safetensors")
            torch.save(state, scratch / "state.pt")
        _drop_all_but(target, position.best_step)
    barrier()  # none goes on, or ends, before the checkpoint is there


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None,
    rounds: Rounds | None = None,
) -> Position:  # fmt: skip
    """Restore the newest checkpoint into model, optimizer, loss scale, random state, rounds; the start position without one."""
    finished = _finished(folder)
    if not finished:
        return Position()
    _load_tensors(model, finished[-1] / "trainable.safetensors")
    state: dict[str, Any] = torch.load(finished[-1] / "state.pt", weights_only=True)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.load_state_dict(_with_tensors(state["optimizer"], lambda i, tensor: sharded_like(parameters[i], tensor)))
    if scaler:
        scaler.load_state_dict(state["scaler"])
    if rounds:
        rounds.restore(state["rounds"])
    _restore_random(state["random"][rank()])
    return Position(**state["position"])


def save_best(folder: Path, model: nn.Module, step: int) -> None:
    """Keep the trained tensors as they are at `step`. The next checkpoint drops those of other steps."""
    trainable = _trainable_on_host(model)
    if is_main():
        with _replacing(_best(folder, step), trainable) as scratch:
            save_file(trainable, scratch)
    barrier()


def load_best(folder: Path, model: nn.Module, step: int) -> None:
    """Put the tensors of `save_best` back into the model."""
    _load_tensors(model, _best(folder, step))


@contextlib.contextmanager
def _replacing(target: Path, content: Any) -> Iterator[Path]:
    """A path beside `target` for `content`, which takes its place at the end.

    Its name is fixed: what a killed process left there, as large as a checkpoint, is removed by the next.
    """
    scratch = target.with_name("writing")
    scratch.parent.mkdir(parents=True, exist_ok=True)
    remove(scratch)
    with writing(scratch, content):
        yield scratch
    os.replace(scratch, target)


def _best(folder: Path, step: int) -> Path:
    return folder / BEST / f"{step:09d}.safetensors"


def _finished(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def _drop_all_but(target: Path, best_step: int) -> None:
    for old in _finished(target.parent):
        if old != target:
            shutil.rmtree(old)
    for old in (target.parent / BEST).glob("*"):
        if old != _best(target.parent, best_step):
            old.unlink()


def _on_host(tensor: Tensor) -> Tensor:
    """The whole tensor on the main process's host; the other processes only help to gather it."""
    whole = full(tensor.detach())
    return whole.cpu().contiguous() if is_main() else torch.empty(0)


def _trainable_on_host(model: nn.Module) -> dict[str, Tensor]:
    return {name: _on_host(tensor) for name, tensor in trainable_state(model).items()}


def _load_tensors(model: nn.Module, path: Path) -> None:
    own = trainable_state(model)
    saved = load_file(path)
    load_trainable(model, {name: sharded_like(own[name], saved[name]) if name in own else saved[name] for name in saved})


def _with_tensors(state: dict[str, Any], change: Callable[[int, Tensor], Tensor]) -> dict[str, Any]:
    """An optimizer's state with `change(index of the parameter, tensor)` for each tensor."""
    changed = {
        index: {name: change(index, value) if isinstance(value, Tensor) else value for name, value in of_one.items()}
        for index, of_one in state["state"].items()
    }
    return {**state, "state": changed}


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
