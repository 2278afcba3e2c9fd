"""Configs that no model can be made from, refused by the name of the field before memory is taken for one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedConfig

from schemas.errors import Refusal
from schemas.text import short

# Largest values: far above those of published models, far below what would fill a machine before anyone sees the mistake.
LARGEST = {
    "vocab_size": 10_000_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_hidden_layers": 10_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "head_dim": 100_000,
    "max_position_embeddings": 1_000_000_000,
    "num_experts": 100_000,
    "num_local_experts": 100_000,
    "n_routed_experts": 100_000,
}
MORE = 2  # times the weights in the files that a config may ask for: tied ones are stored once or twice
PACKED = 32  # times, in a quantised checkpoint: weights of one bit in numbers of 32
TABLES = 1 << 29  # bytes; GPT-Neo's 24 masks of 2,048 positions take a fifth of it
FP32 = 4  # bytes of a weight

NONE_AT_ALL = ("num_experts", "num_local_experts", "n_routed_experts")  # may be 0
BYTES = 4_000_000  # of config.json
REMEDY = "mend config.json, or take another checkpoint"


def refuse_unsound_file(folder: Path, name: str) -> None:
    """Refuse a config.json with a size that is none, before transformers computes with it.

    Raises:
        Refusal: naming the field; `name` says whose it is.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    try:
        values = json.loads(path.read_bytes()) if path.stat().st_size <= BYTES else None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise Refusal(
            where=f"model ({name})",
            found="a config.json that is no JSON object",
            allowed=f"one of at most {BYTES:,} bytes",
            remedy=REMEDY,
        )
    for part in (values, *(inner for inner in values.values() if isinstance(inner, dict))):
        _refuse_sizes(part, name)
    dtype = values.get("dtype") or values.get("torch_dtype")
    if dtype not in (None, "auto") and not isinstance(getattr(torch, str(dtype).removeprefix("torch."), None), torch.dtype):
        raise Refusal(
            where=f"model ({name}), dtype in config.json",
            found=short(dtype),
            allowed="a dtype of torch, such as bfloat16",
            remedy=REMEDY,
        )


def refuse_unsound(config: PreTrainedConfig, name: str) -> None:
    """The same for a config that was read, under the common names of its fields.

    Raises:
        Refusal: naming the field of config.json.
    """
    for part in (config, config.get_text_config()):
        _refuse_sizes({field: getattr(part, field, None) for field in LARGEST}, name)


def _refuse_sizes(values: Mapping[str, Any], name: str) -> None:
    for field, largest in LARGEST.items():
        value, least = values.get(field), int(field not in NONE_AT_ALL)
        if isinstance(value, bool | str | float) or (isinstance(value, int) and not least <= value <= largest):
            raise Refusal(
                where=f"model ({name}), {field} in config.json",
                found=short(value),
                allowed=f"a whole number from {least} to {largest:,}",
                remedy=REMEDY,
            )


def refuse_larger_than_files(model: nn.Module, folder: Path, name: str) -> None:
    """Refuse a config of a model with far more weights than its files hold, or with huge tables, before they are allocated.

    Args:
        model: of the checkpoint's config, without numbers.
        folder: the checkpoint's; one without safetensors is left to whoever loads it.
        name: for the refusal.

    Raises:
        Refusal: when there are more than twice as many, or `PACKED` times as many in a quantised checkpoint; or when what no file
            holds, such as the masks of GPT-Neo, is larger than the weights and `TABLES`.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return
    stored, parameters = sum(map(_numbers, files)), sum(parameter.numel() for parameter in model.parameters())
    if parameters > stored * (PACKED if getattr(model.config, "quantization_config", None) else MORE):
        raise _too_large(name, f"sizes of a model of {parameters:,} weights, with files of {stored:,}")
    tables = sum(buffer.nbytes for buffer in model.buffers())
    if tables > max(TABLES, FP32 * stored):
        raise _too_large(name, f"sizes by which masks and tables of positions take {tables:,} bytes, with {stored:,} weights")


def _too_large(name: str, found: str) -> Refusal:
    return Refusal(
        where=f"model ({name}), config.json", found=found, allowed="the sizes of the weights in the files", remedy=REMEDY
    )


def _numbers(file: Path) -> int:
    """Numbers in a safetensors file, by its header alone."""
    with safe_open(file, "pt") as stored:
        return sum(math.prod(stored.get_slice(key).get_shape()) for key in stored.keys())  # noqa: SIM118 - no mapping
