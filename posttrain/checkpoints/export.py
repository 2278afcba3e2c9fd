"""What consumers load: a merged checkpoint, and the adapter with its base, proven equal in a fresh process.

checkpoint/   merged safetensors, tokenizer and chat template: `AutoModelForCausalLM.from_pretrained`, or `AutoModelForSeq2SeqLM`
adapter/      where PEFT was used: `PeftModel.from_pretrained(base, adapter)`, or `load_delta` of posttrain/peft/delta.py
base/         the adapter's base, unless it is a hub model, which `adapter_config.json` then names

`AutoPeftModelForCausalLM.from_pretrained(adapter)` works too. peft resolves a base only as a hub id or from the current folder,
so `adapter_config.json` names `base/` by its full path in the store; a copy on another machine is loaded by base and adapter.

Beside `delta.safetensors` lies its loader, `delta.py`. A soft prompt, or a bottleneck adapter that `peft/fold.py` does not fold,
has no place in a checkpoint: then there is no `checkpoint/`, and `base/` is always there, with tokenizer and chat template. Where
two adapters stay, they are named `adapter-1/` and `adapter-2/` and loaded in this order.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from posttrain.checkpoints.fingerprint import fixed_prompts
from posttrain.checkpoints.load import load_model, load_tokenizer
from posttrain.checkpoints.round_trip import remember, verify
from posttrain.checkpoints.unmerged import copy_adapter, write_parts
from posttrain.data.end_tokens import set_end_tokens
from posttrain.models.blocks import core
from posttrain.models.policy import Policy
from posttrain.peft.merge import is_foldable, is_plain, merge
from posttrain.peft.wrap import PEFT_CONFIG

CPU = torch.device("cpu")


def export(policy: Policy, out: Path, home: Path | None = None) -> dict[str, str]:
    """Write the folders above and verify them; returns their names.

    Args:
        policy: what was trained.
        out: gets the folders, in place of those of an interrupted export.
        home: where `out` will lie when the stage is finished; None: where it is.

    Raises:
        Refusal: when a folder, reloaded in a fresh process, does not compute what was trained.
        RoundTripFailed: when a folder cannot be loaded.
    """
    for folder in ("checkpoint", "base", *(path.name for path in out.glob("adapter*"))):
        shutil.rmtree(out / folder, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    folders = _export_trained(policy, out)
    if policy.adapters and "base" not in folders:
        folders |= _export_adapter(policy, out)
    if "base" in folders:
        _name_base(out, (home or out) / "base")
    verify(out)
    return folders


def _export_trained(policy: Policy, out: Path) -> dict[str, str]:
    """What holds the whole policy: a checkpoint, or the base and the adapters that stay beside it, or both."""
    tokenizer, model = load_tokenizer(policy), load_model(policy, CPU).eval()
    remember(model, fixed_prompts(tokenizer, model), out)
    if is_plain(model):
        return _save(model, tokenizer, out / "checkpoint")
    adapters = write_parts(model, policy, out)
    set_end_tokens(core(model), tokenizer)
    core(model).generation_config.save_pretrained(out / "base")
    tokenizer.save_pretrained(out / "base")
    merged = _save(merge(model), tokenizer, out / "checkpoint") if is_foldable(model) else {}
    return {name: name for name in ("base", *adapters)} | merged


def _save(model: Any, tokenizer: Any, folder: Path) -> dict[str, str]:
    set_end_tokens(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {folder.name: folder.name}


def _export_adapter(policy: Policy, out: Path) -> dict[str, str]:
    """The last adapter, and the policy below it where that is not simply a hub model."""
    adapter, below = policy.adapters[-1], replace(policy, adapters=policy.adapters[:-1])
    copy_adapter(adapter, out / "adapter")
    named_by_adapter = (adapter / PEFT_CONFIG).exists()
    if named_by_adapter and not below.adapters and not Path(below.base).is_dir():
        return {"adapter": "adapter"}
    return {"adapter": "adapter"} | _save(load_model(below, CPU), load_tokenizer(below), out / "base")


def _name_base(out: Path, base: Path) -> None:
    """Let the config of an adapter that stands alone name the base beside it; of two, neither makes the policy with it."""
    path = out / "adapter" / PEFT_CONFIG
    if path.exists():
        config = json.loads(path.read_text()) | {"base_model_name_or_path": str(base), "revision": None}
        path.write_text(json.dumps(config, indent=2, sort_keys=True))
