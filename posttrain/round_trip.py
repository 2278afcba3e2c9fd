"""`python -m posttrain.round_trip FOLDER`: reload an exported model as a consumer would and compare logits on the fixed prompts.

Run in a fresh process by `posttrain/export.py`, so that nothing in memory can make a broken export look right.
"""

from __future__ import annotations

import json
import math
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig

from posttrain.architectures import auto_class
from posttrain.export import TOLERANCE, logits_of
from posttrain.peft.unmerged import LOADER


def reloaded(folder: Path) -> Iterator[tuple[str, Any]]:
    """Every way in which a consumer can load the folder."""
    merged = (folder / "checkpoint").is_dir()
    if merged:
        yield "checkpoint", _load(folder / "checkpoint")
    if not merged or any(folder.glob(f"adapter*/{LOADER}")):
        yield "adapters on their base", _with_parts(folder)
        return
    if not (folder / "adapter").is_dir():
        return
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    shipped = (folder / "base").is_dir()
    place = folder / "base" if shipped else config["base_model_name_or_path"]
    revision = "main" if shipped else config["revision"] or "main"
    adapted = PeftModel.from_pretrained(_load(place, revision), str(folder / "adapter"))
    yield "adapter on its base", adapted
    yield "adapter merged again", adapted.merge_and_unload(safe_merge=True)


def _with_parts(folder: Path) -> Any:
    """The base with its adapters, by peft and by the loader that lies beside a delta."""
    model = _load(folder / "base")
    for adapter in sorted(folder.glob("adapter*")):
        if (adapter / LOADER).exists():
            model = runpy.run_path(str(adapter / LOADER))["load_delta"](model, adapter)
        else:
            adapted = PeftModel.from_pretrained(model, str(adapter))
            model = adapted if adapted.active_peft_config.is_prompt_learning else adapted.get_base_model()
    return model


def _load(place: Path | str, revision: str = "main") -> Any:
    config = AutoConfig.from_pretrained(place, revision=revision)
    return auto_class(config).from_pretrained(place, revision=revision, dtype=torch.float32)


def largest_difference(folder: Path) -> tuple[float, str]:
    """The largest logit difference to `logits.safetensors` and the way of loading that shows it."""
    expected = load_file(folder / "logits.safetensors")
    ids = json.loads((folder / "prompts.json").read_text())["ids"]
    worst = (0.0, "nothing")
    for way, model in reloaded(folder):
        model.eval()
        for index, row in enumerate(ids):
            gap = (logits_of(model, row) - expected[str(index)]).abs()
            difference = float(gap.nan_to_num(nan=math.inf).max())  # `max` of Python drops a NaN
            worst = max(worst, (difference, way))
    return worst


if __name__ == "__main__":
    difference, way = largest_difference(Path(sys.argv[1]))
    if not difference <= TOLERANCE:
        sys.exit(f"logits differ by {difference:.2e} (allowed {TOLERANCE:.0e}) when loaded as: {way}")
