"""Refuse impossible configs by the name of the field, before any memory is allocated for the model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
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
    "num_hidden_layers": 2_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "head_dim": 100_000,
    "max_position_embeddings": 1_000_000_000,
    "num_experts": 100_000,
    "num_local_experts": 100_000,
    "n_routed_experts": 100_000,
}
# Fields that transformers builds lists, layers or names from while it reads a config, under the names of the families.
BUILT_FROM = {
    "n_layer": 2_000, "n_layers": 2_000, "num_layers": 2_000, "num_decoder_layers": 2_000, "encoder_layers": 2_000,
    "decoder_layers": 2_000, "num_labels": 100_000, "n_embd": 1_000_000, "d_model": 1_000_000, "n_head": 100_000,
    "n_positions": 1_000_000_000,
}  # fmt: skip
MORE = 2  # times the weights in the files that a config may ask for: tied ones are stored once or twice
PACKED = 32  # times, in a quantised checkpoint: weights of one bit in numbers of 32
TABLES = 1 << 29  # bytes; GPT-Neo's 24 masks of 2,048 positions take a fifth of it
FP32 = 4  # bytes of a weight

NONE_AT_ALL = {
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "num_labels",
    "encoder_layers",
    "decoder_layers",
}  # may be 0
BYTES = 4_000_000  # of config.json
DEPTH = 20  # of config.json
BUILT_IN = re.compile(r"[\w|]+")  # an implementation that is a part of transformers; one with a slash is downloaded, and is code
SIZES = "the sizes of the weights in the files"
REMEDY = "mend config.json, or take another checkpoint"


def refuse_unsound_file(folder: Path, name: str) -> None:
    """Refuse a config.json with an impossible size, before transformers computes with it.

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
        raise _refusal(name, "", "a config.json that is no JSON object", f"one of at most {BYTES:,} bytes")
    for part in _parts(values, name):
        _refuse_sizes(part, name, LARGEST | BUILT_FROM)
        _refuse_implementations(part, name)
    dtype = values.get("dtype") or values.get("torch_dtype")
    if dtype not in (None, "auto") and not isinstance(getattr(torch, str(dtype).removeprefix("torch."), None), torch.dtype):
        raise _refusal(name, "dtype in config.json", short(dtype), "a dtype of torch, such as bfloat16")


def refuse_unsound(config: PreTrainedConfig, name: str) -> None:
    """The same for a loaded config, by the common names of its fields.

    Raises:
        Refusal: naming the field of config.json.
    """
    for part in (config, config.get_text_config()):
        _refuse_sizes({field: getattr(part, field, None) for field in LARGEST}, name, LARGEST)


def _parts(values: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The object and every object inside it: a model of several parts has a config for each."""
    pending: list[tuple[Any, int]] = [(values, 0)]
    while pending:
        value, depth = pending.pop()
        if depth > DEPTH:
            raise _refusal(name, "config.json", f"values nested over {DEPTH} deep", f"at most {DEPTH} levels")
        if isinstance(value, dict):
            yield value
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        pending.extend((each, depth + 1) for each in inner if isinstance(each, dict | list))


def _refuse_implementations(values: Mapping[str, Any], name: str) -> None:
    """Refuse kernels that would be fetched from the hub, and an excessive repetition of GPT-Neo's attention kinds."""
    for field, value in values.items():
        if not field.endswith(("_implementation", "_implementation_internal")):
            continue
        for given in value.values() if isinstance(value, dict) else (value,):
            if given is not None and not (isinstance(given, str) and BUILT_IN.fullmatch(given)):
                raise _refusal(name, f"{field} in config.json", short(given), "one that is part of transformers, such as sdpa")
    for entry in values.get("attention_types") or ():
        times = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if not isinstance(times, int) or not 0 < times <= LARGEST["num_hidden_layers"]:
            raise _refusal(name, "attention_types in config.json", short(entry), "kinds, and how often they come")


def _refuse_sizes(values: Mapping[str, Any], name: str, fields: Mapping[str, int]) -> None:
    for field, largest in fields.items():
        value, least = values.get(field), int(field not in NONE_AT_ALL)
        if isinstance(value, bool | str | float) or (isinstance(value, int) and not least <= value <= largest):
            raise _refusal(name, f"{field} in config.json", short(value), f"a whole number from {least} to {largest:,}")


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
        raise _refusal(name, "config.json", f"sizes of a model of {parameters:,} weights, with files of {stored:,}", SIZES)
    tables = sum(buffer.nbytes for buffer in model.buffers())
    if tables > max(TABLES, FP32 * stored):
        found = f"sizes by which masks and tables of positions take {tables:,} bytes, with {stored:,} weights"
        raise _refusal(name, "config.json", found, SIZES)


def _refusal(name: str, place: str, found: str, allowed: str) -> Refusal:
    return Refusal(where=f"model ({name}){', ' if place else ''}{place}", found=found, allowed=allowed, remedy=REMEDY)


def _numbers(file: Path) -> int:
    """Number of weights in a safetensors file, from its header."""
    with safe_open(file, "pt") as stored:
        return sum(math.prod(stored.get_slice(key).get_shape()) for key in stored.keys())  # noqa: SIM118 - no mapping
