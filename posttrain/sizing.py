"""How large a recipe's model is, without loading weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedConfig

from posttrain.architectures import auto_class
from posttrain.models import load_config, scratch_config
from posttrain.peft.wrap import wrap
from posttrain.policy import source_policy
from schemas.model import ScratchModel
from schemas.recipe import Recipe


def size_of(recipe: Recipe) -> dict[str, Any]:
    """Parameters, trainable ones per stage, and key-value cache per token with and without grouped-query attention (bytes, fp32).

    The model is built on the meta device, which holds no numbers.
    """
    config = _config(recipe)
    sizes: dict[str, Any] = {}
    for stage, spec in (("sft", recipe.sft), ("alignment", recipe.alignment)):
        if spec is None or not hasattr(spec, "peft"):
            continue
        with torch.device("meta"):
            model = auto_class(config).from_config(copy.deepcopy(config))  # a method may set flags in it
            model = wrap(model, spec.peft, recipe.seed, f"{stage}.peft")
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        sizes[f"trainable_parameters_{stage}"] = trained
    with torch.device("meta"):
        sizes["parameters"] = sum(p.numel() for p in auto_class(config).from_config(config).parameters())
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    per_head = 2 * 4 * config.num_hidden_layers * head
    return sizes | {
        "kv_cache_bytes_per_token": per_head * kv_heads,
        "kv_cache_without_gqa": per_head * config.num_attention_heads,
    }


def _config(recipe: Recipe) -> PreTrainedConfig:
    if isinstance(recipe.model, ScratchModel):
        return scratch_config(recipe.model, recipe.model.vocab_size)
    return load_config(source_policy(recipe.model))
