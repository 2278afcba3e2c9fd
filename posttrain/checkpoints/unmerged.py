"""A policy whose adapters cannot all be merged, taken apart: a plain checkpoint, and beside it the adapters that stay.

What merges is in the checkpoint, whatever the order of training: a soft prompt stands outside the layers, a bottleneck adapter
beside the weights of its layer.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from posttrain.checkpoints.load import load_model
from posttrain.checkpoints.parts import LOADER
from posttrain.models import blocks
from posttrain.models.policy import Policy
from posttrain.peft import base_identity, delta
from posttrain.peft.methods import METHODS
from posttrain.peft.stacking import OTHER, families_in
from posttrain.peft.wrap import PEFT_CONFIG, PEFT_TENSORS

ADAPTER_FILES = (PEFT_CONFIG, PEFT_TENSORS, delta.RECORD, delta.TENSORS, base_identity.FILE)


def write_parts(model: Any, policy: Policy, out: Path) -> list[str]:
    """Write `base/` and the adapters; returns the names of the adapters' folders, in the order of loading.

    Args:
        model: the policy in memory.
        policy: where it was loaded from.
        out: gets `base/`, and `adapter/` or, where several stay, `adapter-1/`, `adapter-2/` and so on.
    """
    stay = _staying(model, policy.adapters)
    if OTHER in families_in(model):  # its layers stand in the place of the base's
        model = load_model(replace(policy, adapters=policy.adapters[:-1]), torch.device("cpu"))
    base = blocks.core(model)
    plain = {name: tensor for name, tensor in base.state_dict().items() if not blocks.attached(name)}
    base.save_pretrained(out / "base", state_dict=plain)
    names = ["adapter"] if len(stay) == 1 else [f"adapter-{number}" for number in range(1, len(stay) + 1)]
    for name, folder in zip(names, stay, strict=True):
        copy_adapter(folder, out / name)
        _name_no_base(out / name / PEFT_CONFIG)
    base_identity.rebase([out / name for name in names], load_model(Policy(str(out / "base")), torch.device("cpu")))
    return names


def _staying(model: Any, adapters: Sequence[Path]) -> list[Path]:
    """The adapters that are in the model, a soft prompt last: it is put around everything else."""
    methods = {folder: METHODS[base_identity.method_of(folder)] for folder in adapters}
    stay = [folder for folder, method in methods.items() if not method.merges]
    if OTHER in families_in(model):  # nothing is trained above it
        stay.append(adapters[-1])
    return sorted(stay, key=lambda folder: methods[folder].family == "soft prompts")


def copy_adapter(folder: Path, to: Path) -> None:
    """The files that an adapter is read from, and its loader where that is not peft; what else lies in its folder stays there."""
    to.mkdir()
    for name in ADAPTER_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, to / name)
    if not (to / PEFT_CONFIG).exists():
        shutil.copyfile(delta.__file__, to / LOADER)


def _name_no_base(path: Path) -> None:
    """The adapter belongs on the base beside it, which may hold more than one of the hub."""
    if path.exists():
        config = json.loads(path.read_text()) | {"base_model_name_or_path": "", "revision": None}
        path.write_text(json.dumps(config, indent=2, sort_keys=True))


def virtual_tokens_of(adapters: Sequence[Path]) -> int:
    """Positions that the soft prompts among the adapters take."""
    configs = (json.loads((folder / PEFT_CONFIG).read_text()) for folder in adapters if (folder / PEFT_CONFIG).exists())
    return sum(config.get("num_virtual_tokens") or 0 for config in configs)


def methods_that_stay(adapters: Sequence[Path]) -> tuple[str, ...]:
    """Methods of the adapters that `write_parts` wrote; `unmerged` stands for one that merges elsewhere."""
    methods = map(base_identity.method_of, adapters)
    return tuple(OTHER if METHODS[method].merges else method for method in methods)
