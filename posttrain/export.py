"""What consumers load: a merged checkpoint, and the adapter with its base, proven equal in a fresh process.

checkpoint/   merged safetensors, tokenizer and chat template: `AutoModelForCausalLM.from_pretrained`, or `AutoModelForSeq2SeqLM`
adapter/      where PEFT was used: `PeftModel.from_pretrained(base, adapter)`, or `load_delta` of posttrain/peft/delta.py
base/         the adapter's base, unless it is a hub id, which `adapter_config.json` then names

Beside `delta.safetensors` lies its loader, `delta.py`. A soft prompt, or a bottleneck adapter that `peft/fold.py` does not fold,
has no place in a checkpoint: then there is no `checkpoint/`, and `base/` is always there, with tokenizer and chat template. Where
two adapters stay, they are named `adapter-1/` and `adapter-2/` and loaded in this order.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from posttrain.layouts import shifted
from posttrain.models import load_model, load_tokenizer
from posttrain.peft.merge import is_foldable, is_plain, merge
from posttrain.peft.soft_prompts import soft_prompt
from posttrain.peft.unmerged import copy_adapter, write_parts
from posttrain.policy import Policy

FIXED_PROMPTS = ("Write a review of the Old Mill, a hotel.", "Hello! What can you do?", "1, 2, 3,")
TOLERANCE = 1e-4  # largest logit difference; fp32 arithmetic in another order


class RoundTripFailed(RuntimeError):
    """The exported model does not compute what the trained one does."""


def export(policy: Policy, out: Path) -> dict[str, str]:
    """Write the folders above and verify them; returns their names.

    Raises:
        RoundTripFailed: when logits on fixed prompts differ after reloading in a fresh process.
    """
    for folder in ("checkpoint", "base", *(path.name for path in out.glob("adapter*"))):
        shutil.rmtree(out / folder, ignore_errors=True)  # an interrupted export starts over
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(policy)
    model = load_model(policy, torch.device("cpu")).eval()
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in FIXED_PROMPTS]
    logits = {str(i): logits_of(model, row).contiguous() for i, row in enumerate(ids)}
    save_file(logits, out / "logits.safetensors")
    (out / "prompts.json").write_text(json.dumps({"texts": FIXED_PROMPTS, "ids": ids}))
    folders = _export_merged(model, tokenizer, policy, out) if is_plain(model) else _export_parts(model, tokenizer, policy, out)
    verify(out)
    return folders


@torch.no_grad()
def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits [1, T, V] for a text of T tokens; an encoder-decoder reads the text and is asked for the same text again."""
    tokens = torch.tensor([ids])
    more: dict[str, Any] = {}
    if model.config.is_encoder_decoder:  # no labels: peft adds AdaLoRA's penalty to a loss, and fails where nothing is trained
        more["decoder_input_ids"] = shifted(tokens, model.config.decoder_start_token_id)
    # peft adds its virtual tokens to the mask that it is given, and a prefix is a cache.
    more |= {"attention_mask": torch.ones_like(tokens)} if soft_prompt(model) is not None else {"use_cache": False}
    logits: torch.Tensor = model(input_ids=tokens, **more).logits
    return logits[:, -len(ids) :]


def _export_merged(model: Any, tokenizer: Any, policy: Policy, out: Path) -> dict[str, str]:
    return _save(model, tokenizer, out) | (_export_adapter(policy, out) if policy.adapters else {})


def _save(model: Any, tokenizer: Any, out: Path) -> dict[str, str]:
    model.save_pretrained(out / "checkpoint")
    tokenizer.save_pretrained(out / "checkpoint")
    return {"checkpoint": "checkpoint"}


def _export_parts(model: Any, tokenizer: Any, policy: Policy, out: Path) -> dict[str, str]:
    adapters = write_parts(model, policy, out)
    tokenizer.save_pretrained(out / "base")
    folders = {name: name for name in ("base", *adapters)}
    return folders | (_save(merge(model), tokenizer, out) if is_foldable(model) else {})


def _export_adapter(policy: Policy, out: Path) -> dict[str, str]:
    """The last adapter, and the policy below it where that is not simply a hub model."""
    adapter, below = policy.adapters[-1], replace(policy, adapters=policy.adapters[:-1])
    copy_adapter(adapter, out / "adapter")
    named_by_adapter = (adapter / "adapter_config.json").exists()
    if named_by_adapter and not below.adapters and not Path(below.base).is_dir():
        return {"adapter": "adapter"}
    load_model(below, torch.device("cpu")).save_pretrained(out / "base")  # type: ignore[operator]
    load_tokenizer(below).save_pretrained(out / "base")
    return {"adapter": "adapter", "base": "base"}


def verify(folder: Path) -> None:
    """Reload an exported folder in a fresh process and compare logits there."""
    done = subprocess.run([sys.executable, "-m", "posttrain.round_trip", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise RoundTripFailed(f"{folder}: {said[-1]}")
