"""`python -m posttrain.checkpoints.round_trip FOLDER`: reload an exported model as every consumer can, and compare outputs.

`verify` runs it in a fresh process, so that nothing in memory can make a broken export look right. One model is held at a time.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.utils import logging

from posttrain.checkpoints.fingerprint import Difference, Fingerprint, difference, fingerprint, is_same
from posttrain.checkpoints.load import check_size, load_config
from posttrain.checkpoints.parts import LOADER, refuse_unexpected
from posttrain.models import blocks
from posttrain.models.architectures import auto_class
from posttrain.models.policy import Policy
from posttrain.peft.delta import load_delta
from posttrain.peft.rounding import allowed_difference
from posttrain.peft.wrap import PEFT_CONFIG
from posttrain.runtime.child_processes import PYTHON, child_environment
from posttrain.runtime.garbage import unsearched_at_exit
from posttrain.runtime.writing import write_atomically
from schemas.errors import Refusal
from schemas.results import Metrics

OUTPUTS, PROMPTS, FOUND = "trained.safetensors", "prompts.json", "round_trip.json"
LOGITS, MODULE = "logits", "module."  # names of tensors


class RoundTripFailed(RuntimeError):
    """An exported folder could not be reloaded at all."""


@dataclass(frozen=True)
class Reloaded:
    """One way of loading, and what came of it; a row of `round_trip.json`."""

    way: str
    allowed: float
    same: bool
    difference: Difference


def remember(model: nn.Module, prompts: list[list[int]], folder: Path) -> None:
    """Write what the trained model computes on the prompts, and by how much a copy may differ."""
    found = fingerprint(model, prompts)
    tensors = {LOGITS: found.logits} | {f"{MODULE}{name}": outputs for name, outputs in found.modules.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / OUTPUTS)
    allowed = allowed_difference(model, found.logits.dtype)
    (folder / PROMPTS).write_text(json.dumps({"ids": prompts, "allowed": allowed}))


def verify(folder: Path) -> None:
    """Reload an exported folder in a fresh process, compare, and write `round_trip.json`.

    Raises:
        Refusal: when a reloaded model does not compute what the trained one did, or the folder holds a file that is not ours.
        RoundTripFailed: when the folder cannot be loaded.
    """
    refuse_unexpected(folder)
    (folder / FOUND).unlink(missing_ok=True)
    command = [*PYTHON, "-m", "posttrain.checkpoints.round_trip", str(folder)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=child_environment())
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RoundTripFailed(f"{folder} cannot be reloaded: {said[-1]}")
    if differing := next((each for each in _found(folder) if not each.same), None):
        raise _mismatch(differing)


def numbers(folder: Path) -> Metrics:
    """The largest differences of a verified folder, over all ways of loading it."""
    found = [each.difference for each in _found(folder)]
    return {
        "round_trip_logits": max(each.logits for each in found),
        "round_trip_kl": max(each.kl for each in found),
        "round_trip_top1": min(each.top1 for each in found),
    }


def _found(folder: Path) -> list[Reloaded]:
    return [Reloaded(**row | {"difference": Difference(**row["difference"])}) for row in json.loads((folder / FOUND).read_text())]


def _mismatch(found: Reloaded) -> Refusal:
    gap = found.difference
    place = f"first at {gap.module}, by {gap.module_difference:.2g} of its output" if gap.module else "at no single module"
    return Refusal(
        where=f"register ({found.way})",
        found=f"an export that, reloaded, differs from the trained model {place}; its logits by {gap.logits:.2g} of their size, "
        f"the next token's distribution by a KL of up to {gap.kl:.2g}, the most likely token at {1 - gap.top1:.1%} of positions",
        allowed=f"differences of at most {found.allowed:.2g}, which rounding explains",
        remedy="export again from what is trained and kept. If it differs again, the installed transformers and peft do not "
        "reload this model as it was: take the versions of constraints.txt, or another peft.method",
    )


def compare(folder: Path) -> list[Reloaded]:
    """Every way of loading the folder, with its difference to what `remember` wrote."""
    asked = json.loads((folder / PROMPTS).read_text())
    trained, allowed, found = _remembered(folder), asked["allowed"], []
    for way, model in reloaded(folder):
        gap = difference(trained, fingerprint(model.eval(), asked["ids"]), allowed, _comparable(folder, way, model))
        found.append(Reloaded(way, allowed, is_same(gap, trained, allowed), gap))
        del model
        gc.collect()
    return found


def _remembered(folder: Path) -> Fingerprint:
    with safe_open(folder / OUTPUTS, "pt") as file:
        modules = {name.removeprefix(MODULE): file.get_tensor(name) for name in file.keys() if name != LOGITS}  # noqa: SIM118
        return Fingerprint(file.get_tensor(LOGITS), modules)


def _comparable(folder: Path, way: str, model: nn.Module) -> list[str] | None:
    """Where bottleneck adapters are folded into the checkpoint's layers, only whole blocks compute what they did."""
    if way != "checkpoint" or not any(folder.glob(f"adapter*/{LOADER}")):
        return None
    return [f"{name}.{number}" for name, stack in blocks.stacks(model) for number in range(len(stack))]


def reloaded(folder: Path) -> Iterator[tuple[str, Any]]:
    """Every way in which a consumer can load the folder; a model is let go of before the next one is loaded."""
    merged = (folder / "checkpoint").is_dir()
    if merged:
        yield "checkpoint", _load(folder / "checkpoint")
    if not merged or any(folder.glob(f"adapter*/{LOADER}")):
        yield "adapters on their base", _with_parts(folder)
    elif (folder / "adapter").is_dir():
        adapted = _adapted(folder)
        yield "adapter on its base", adapted
        yield "adapter merged again", adapted.merge_and_unload(safe_merge=True)


def _adapted(folder: Path) -> Any:
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    shipped = (folder / "base").is_dir()
    place = folder / "base" if shipped else config["base_model_name_or_path"]
    revision = "main" if shipped else config["revision"] or "main"
    return PeftModel.from_pretrained(_load(place, revision), str(folder / "adapter"))


def _with_parts(folder: Path) -> Any:
    """The base with its adapters, by peft and by the loader whose copy lies beside a delta: never by what lies there."""
    model = _load(folder / "base")
    for adapter in sorted(folder.glob("adapter*")):
        if not (adapter / PEFT_CONFIG).exists():
            model = load_delta(model, adapter)
        else:
            adapted = PeftModel.from_pretrained(model, str(adapter))
            model = adapted if adapted.active_peft_config.is_prompt_learning else adapted.get_base_model()
    return model


def _load(place: Path | str, revision: str = "main") -> Any:
    source = Policy(str(place), revision)
    config = load_config(source)
    check_size(source, config)
    return auto_class(config).from_pretrained(place, revision=revision, dtype=torch.float32)


if __name__ == "__main__":
    unsearched_at_exit()
    logging.disable_progress_bar()
    where = Path(sys.argv[1])
    write_atomically(where / FOUND, json.dumps([asdict(each) for each in compare(where)], indent=1))
