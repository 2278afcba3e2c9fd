"""Training checkpoints: everything that the next step depends on, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from posttrain.peft.wrap import load_trainable, trainable_state


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


def save_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Write `folder/<step>` through a scratch folder and a rename, then drop the older ones."""
    scratch = folder / "writing"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    state = {name: tensor.detach().contiguous() for name, tensor in trainable_state(model).items()}
    save_file(state, scratch / "trainable.safetensors")
    torch.save({"optimizer": optimizer.state_dict(), "position": asdict(position), **_random_state()}, scratch / "state.pt")
    target = folder / f"{position.step:09d}"
    os.replace(scratch, target)
    for old in _finished(folder):
        if old != target:
            shutil.rmtree(old)


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Restore the newest checkpoint into model, optimizer and random state; the start position when there is none."""
    finished = _finished(folder)
    if not finished:
        return Position()
    load_trainable(model, load_file(finished[-1] / "trainable.safetensors"))
    state: dict[str, Any] = torch.load(finished[-1] / "state.pt", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
    return Position(**state["position"])


def _finished(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state
