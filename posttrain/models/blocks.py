"""Where things are in a transformer: its blocks, their linear layers by role, its normalisation layers.

Architectures are recognised by structure and by the names that transformers gives their parts; a model whose parts have other
names is refused by the method that needs them, never half adapted.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

BOTTLENECK = "bottleneck"  # child module that a bottleneck adapter adds to a layer; a second one gets a number

# The last linear layer of attention and of the feed-forward layer, and those of keys and values (fused in GPT-2 and NeoX).
ATTENTION_OUTPUTS = (
    "o_proj", "out_proj", "SelfAttention.o", "EncDecAttention.o", "attn.c_proj", "crossattention.c_proj", "attention.dense",
    "self_attention.dense", "self_attn.dense", "attention.output.dense", "crossattention.output.dense",
)  # fmt: skip
FEED_FORWARD_OUTPUTS = ("down_proj", "DenseReluDense.wo", "mlp.c_proj", "fc2", "dense_4h_to_h", "fc_out", "output.dense")
FEED_FORWARDS = ("mlp", "DenseReluDense", "feed_forward")  # modules that map the hidden state to an update of it
KEYS_AND_VALUES = (
    "k_proj", "v_proj", "SelfAttention.k", "SelfAttention.v", "EncDecAttention.k", "EncDecAttention.v", "key", "value", "c_attn",
    "query_key_value", "qkv_proj",
)  # fmt: skip


def core(model: Any) -> Any:
    """The transformers model inside peft's wrappers, or the model itself."""
    while hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return model


def architecture(config: Any) -> str:
    """`decoder`, `encoder_decoder` or `encoder`, from a transformers config.

    A family with a masked language model is an encoder unless its config says that it is used as a decoder.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if config.is_encoder_decoder:
        return "encoder_decoder"
    kind = config.model_type
    masked = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    return "encoder" if masked or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else "decoder"


def stacks(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """The lists of transformer blocks by name, in order: one, or encoder and decoder."""
    found: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in found)
        if isinstance(module, nn.ModuleList) and not inside and any(linear_layers(module)):
            found.append((name, module))
    return found


def linear_layers(model: nn.Module) -> dict[str, Any]:
    """Every linear layer by name, without those of attached adapters."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    return {name: layer for name, layer in layers.items() if not attached(name)}


def attached(name: str) -> bool:
    """Whether a module or parameter belongs to a bottleneck adapter."""
    return re.search(rf"(^|\.){BOTTLENECK}\d*\.", name) is not None


def all_linear(model: Any) -> dict[str, Any]:
    """Every linear layer but the output head."""
    head = bare(model.get_output_embeddings())
    return {name: layer for name, layer in linear_layers(model).items() if layer is not head}


def bare(layer: Any) -> Any:
    """An embedding or output head itself, where peft trains some of its rows around it."""
    return getattr(layer, "original_module", layer)


def in_blocks(model: nn.Module, endings: tuple[str, ...]) -> dict[str, Any]:
    """Linear layers inside the blocks whose name is one of these or ends with one."""
    prefixes = tuple(f"{name}." for name, _ in stacks(model))
    layers = linear_layers(model).items()
    return {name: layer for name, layer in layers if name.startswith(prefixes) and ends_with(name, endings)}


def attention_outputs(model: nn.Module) -> dict[str, Any]:
    """The output projections of attention, cross-attention included."""
    return in_blocks(model, ATTENTION_OUTPUTS)


def feed_forward_outputs(model: nn.Module) -> dict[str, Any]:
    """The last linear layer of each block's feed-forward layer."""
    return {name: m for name, m in in_blocks(model, FEED_FORWARD_OUTPUTS).items() if not ends_with(name, ATTENTION_OUTPUTS)}


def norms(model: nn.Module) -> dict[str, nn.Module]:
    """Every normalisation layer with parameters, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower() and any(True for _ in module.parameters(recurse=False))
    }


def short_names(chosen: dict[str, Any], everything: dict[str, Any]) -> list[str]:
    """Sorted name endings that select exactly `chosen` among `everything`; full names where endings would select more."""
    endings = sorted({name.rpartition(".")[2] for name in chosen})
    selected = {name for name in everything if ends_with(name, tuple(endings))}
    return endings if selected == set(chosen) else sorted(chosen)


def ends_with(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the endings or has one after a dot, as peft matches target modules."""
    return name in endings or name.endswith(tuple(f".{ending}" for ending in endings))


def width_out(layer: Any) -> int:
    """Output width of a linear layer."""
    return int(layer.nf if isinstance(layer, Conv1D) else layer.out_features)


def width_in(layer: Any) -> int:
    """Input width of a linear layer."""
    return int(layer.nx if isinstance(layer, Conv1D) else layer.in_features)


def on_meta(model: nn.Module) -> bool:
    """Whether the model holds no numbers: it was made to be sized or checked."""
    return next(model.parameters()).is_meta
