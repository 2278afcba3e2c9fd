"""Architectures: the config of a new model of each family, without dropout, and the class that runs a config."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    T5Config,
)

from schemas.errors import Refusal
from schemas.model import INITIALIZER_RANGE, KV_HEADS, ROPE_THETA, ScratchModel

_POSITIONS: dict[str, int] = {}  # by the config's content: the answer takes a second


def longest_sequence(config: PreTrainedConfig) -> int:
    """Tokens that a model can read; where positions are computed rather than looked up there is no limit."""
    from posttrain.models.blocks import architecture
    from posttrain.models.positions import positions_of

    kind = AutoModel if architecture(config) == "encoder" else auto_class(config)
    content = f"{type(config).__name__} {config.to_json_string(use_diff=False)}"
    if content not in _POSITIONS:
        _POSITIONS[content] = positions_of(lambda: kind.from_config(copy.deepcopy(config)))
    return _POSITIONS[content]


def readable(config: PreTrainedConfig) -> int:
    """Tokens that a model was trained to read: its positions, learned or rotary; T5's relative positions have no limit."""
    from posttrain.models.positions import UNLIMITED

    declared = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(longest_sequence(config), declared if declared and declared > 0 else UNLIMITED)


def refuse_beyond(longest: int, section: str, field: str, tokens: int) -> None:
    """Refuse rows that are longer than a model can read."""
    if tokens > longest:
        raise Refusal(
            where=f"{section}.{field}",
            found=f"{tokens} with a model of {longest} positions",
            allowed=f"at most {longest}",
            remedy="lower it",
        )


def refuse_long_answers(positions: int, tokens: int) -> None:
    """Refuse answers of evaluation that would fill all positions: each prompt would lose all but its last token to them."""
    if tokens > positions - 2:
        raise Refusal(
            where="evaluation.max_new_tokens",
            found=f"{tokens} with a model of {positions} positions",
            allowed=f"at most {positions - 2}, which leaves room for a prompt",
            remedy="lower it",
        )


def auto_class(config: PreTrainedConfig) -> Any:
    """The transformers class that generates text with this architecture."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _gated_width(spec: ScratchModel) -> int:
    """A gated layer has three matrices: 8/3 of the width costs what 4 times the width costs with two."""
    return spec.intermediate_size or -(-spec.hidden_size * 8 // 3 // 32) * 32


def _llama(spec: ScratchModel, vocab_size: int) -> PreTrainedConfig:
    """Llama 3: grouped-query attention, rotary positions, SwiGLU."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=_gated_width(spec),
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads or KV_HEADS,
        max_position_embeddings=spec.max_length,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta or ROPE_THETA},
        tie_word_embeddings=spec.tie_embeddings,
        initializer_range=spec.initializer_range or INITIALIZER_RANGE,
    )


def _gpt2(spec: ScratchModel, vocab_size: int) -> PreTrainedConfig:
    """GPT-2: learned absolute positions, layer norm, biases."""
    return GPT2Config(
        vocab_size=vocab_size,
        n_embd=spec.hidden_size,
        n_inner=spec.intermediate_size,
        n_layer=spec.layers,
        n_head=spec.heads,
        n_positions=spec.max_length,
        tie_word_embeddings=spec.tie_embeddings,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


def _t5(spec: ScratchModel, vocab_size: int) -> PreTrainedConfig:
    """T5 with the gated GELU of version 1.1 (arXiv 2002.05202); relative positions have no longest sequence of their own."""
    return T5Config(
        vocab_size=vocab_size,
        d_model=spec.hidden_size,
        d_kv=spec.hidden_size // spec.heads,
        d_ff=_gated_width(spec),
        num_layers=spec.layers,
        num_heads=spec.heads,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )


CONFIGS: dict[str, Callable[[ScratchModel, int], PreTrainedConfig]] = {"llama": _llama, "gpt2": _gpt2, "t5": _t5}
"""By `model.architecture`: the config for the sizes of a recipe and a vocabulary."""
