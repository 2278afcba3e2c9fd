"""Soft prompts: trained vectors before the input, through Hugging Face peft, and the forward passes that they need.

They are the model's virtual tokens. Prompt tuning and p-tuning put embeddings before the input (of the encoder where there is
one), prefix tuning puts keys and values before those of every layer (of the decoder where there is one). Packing would show them
to the first sequence of a row alone, so that they are scored one sequence a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from posttrain.models import blocks
from posttrain.models.architectures import longest_sequence
from posttrain.peft.hf_peft import put
from posttrain.peft.methods import Applied, Request


def prompt_tuning(model: Any, request: Request) -> Applied:
    """Embeddings before the input."""
    spec: Any = request.spec
    _refuse_other_widths(model, request)
    applied = _put(model, "PromptTuningConfig", spec, prompt_tuning_init="RANDOM")
    if not blocks.on_meta(model):
        embedding = applied.model.prompt_encoder["default"].embedding.weight
        with torch.no_grad():
            embedding.copy_(_first_embeddings(model, request))
    return applied


def p_tuning(model: Any, request: Request) -> Applied:
    """Embeddings before the input, computed by a small network during training; only the resulting embeddings are saved."""
    spec: Any = request.spec
    _refuse_other_widths(model, request)
    return _put(model, "PromptEncoderConfig", spec, encoder_reparameterization_type=spec.encoder.upper(),
                encoder_hidden_size=spec.hidden_size)  # fmt: skip


def prefix_tuning(model: Any, request: Request) -> Applied:
    """Keys and values before those of every layer, with the model's number and width of key-value heads.

    For an encoder-decoder peft makes keys and values for self- and cross-attention, drops the latter, and yet counts as if there
    were one pair a layer: layer i would share the prefix of layer 2i modulo their number. Asked for twice the layers, it gives
    every layer its own; the half for cross-attention stays without use.
    """
    spec: Any = request.spec
    config = model.config.get_text_config()
    if getattr(config, "num_attention_heads", None) is None or getattr(config, "kv_lora_rank", None) is not None:
        found = f"prefix_tuning on a {model.config.model_type} model, which keeps no keys and values by heads"
        raise request.refused(
            part="method",
            found=found,
            allowed="prompt_tuning, p_tuning or a method inside the layers",
            remedy="choose one of these",
        )
    shared = getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False)  # Falcon's two
    all_heads = 1 if shared else config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or all_heads
    width = getattr(config, "d_kv", None) or getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers = len(blocks.stacks(model)[-1][1]) * (2 if model.config.is_encoder_decoder else 1)
    return _put(model, "PrefixTuningConfig", spec, token_dim=heads * width, num_attention_heads=heads, num_layers=layers,
                init_weights="zero" if spec.init == "zero" else None, prefix_projection=spec.projection_size is not None,
                encoder_hidden_size=spec.projection_size)  # fmt: skip


def _put(model: Any, config: str, spec: Any, **fields: Any) -> Applied:
    at_input = {} if config == "PrefixTuningConfig" else {"num_transformer_submodules": 1}
    return put(model, config, num_virtual_tokens=spec.virtual_tokens, **at_input, **fields)


def _refuse_other_widths(model: Any, request: Request) -> None:
    """peft makes virtual tokens as wide as the hidden state; a few models project narrower embeddings to that width."""
    width, hidden = model.get_input_embeddings().weight.shape[1], model.config.get_text_config().hidden_size
    if width != hidden:
        found = f"{request.spec.method} on embeddings of width {width} in a model of width {hidden}"
        raise request.refused(
            part="method", found=found, allowed="prefix_tuning or a method inside the layers", remedy="choose one of these"
        )


def _first_embeddings(model: Any, request: Request) -> Tensor:
    """[virtual tokens, H] of a prompt: of random tokens, of a text, or noise."""
    spec: Any = request.spec
    embed = model.get_input_embeddings()
    rows, width = embed.weight.shape
    if spec.init == "random":
        return torch.randn(spec.virtual_tokens, width, device=embed.weight.device).mul_(float(embed.weight.std()))
    ids = torch.randint(rows, (spec.virtual_tokens,))
    if spec.init == "text":
        words = request.tokenizer(spec.text, add_special_tokens=False)["input_ids"]
        if not words:
            raise request.refused(
                part="text", found=f"{spec.text!r}, in which the tokenizer finds no token", allowed="words", remedy="write some"
            )
        ids = torch.tensor((words * math.ceil(spec.virtual_tokens / len(words)))[: spec.virtual_tokens])
    embeddings: Tensor = embed(ids.to(embed.weight.device))
    return embeddings


def has_soft_prompt(model: Any) -> bool:
    """Whether a model is a peft model that holds a soft prompt."""
    config = getattr(model, "active_peft_config", None)
    return config is not None and bool(config.is_prompt_learning)


def virtual_tokens(model: Any) -> int:
    """How many positions of its context a model's soft prompt takes; 0 without one."""
    return int(model.active_peft_config.num_virtual_tokens) if has_soft_prompt(model) else 0


def context_length(model: Any) -> int:
    """How many tokens a sequence may have: the model's positions less those of its soft prompt."""
    return longest_sequence(blocks.core(model).config) - virtual_tokens(model)


@dataclass(frozen=True)
class Prompted:
    """Arguments for the forward pass of a transformers model or of its body, with the soft prompt in them."""

    inputs: dict[str, Any]
    """For a decoder, or the encoder."""
    skip: int = 0
    """Leading positions of the output that belong to the soft prompt."""
    decoder: dict[str, Any] = field(default_factory=dict)
    """More for an encoder-decoder's decoder."""


def prompted(model: Any, ids: Tensor, attended: Tensor, decoder_attended: Tensor | None = None) -> Prompted:
    """Token ids [B, T], padded on the right, as inputs; `attended` [B, T] is 1 for tokens, `decoder_attended` [B, U] likewise.

    Call `blocks.core(model)`, or its `base_model`, with the result: the soft prompt's own wrapper must not add it again. A prefix
    comes as a cache, which is why `use_cache` is on for it and off for all others.
    """
    plain = {"input_ids": ids, "attention_mask": attended.long()}
    decoder = {} if decoder_attended is None else {"decoder_attention_mask": decoder_attended.long()}
    if not has_soft_prompt(model):
        return Prompted(plain | {"use_cache": False}, 0, decoder)
    if _is_prefix(model):
        cache = {"past_key_values": model.get_prompt(len(ids)), "use_cache": True}
        if decoder_attended is not None:
            return Prompted(plain, 0, {"decoder_attention_mask": _before(decoder_attended, virtual_tokens(model)), **cache})
        return Prompted(plain | cache | {"attention_mask": _before(attended, virtual_tokens(model))})
    embeddings, mask = _embedded(model, ids, attended)
    skip = 0 if blocks.core(model).config.is_encoder_decoder else virtual_tokens(model)
    return Prompted({"inputs_embeds": embeddings, "attention_mask": mask, "use_cache": False}, skip, decoder)


def padded_logits(
    model: Any, ids: Tensor, attended: Tensor, decoder_ids: Tensor | None = None, decoder_attended: Tensor | None = None
) -> Tensor:
    """Logits [B, T, V] of rows padded on the right, with the model's soft prompt, if any, before them and cut off the result.

    Args:
        model: a transformers language model, bare or wrapped by peft.
        ids: [B, T]; the input of the encoder where there is one.
        attended: [B, T], 1 for tokens.
        decoder_ids: [B, U] for an encoder-decoder, whose logits are [B, U, V].
        decoder_attended: [B, U] likewise.
    """
    if decoder_ids is not None and decoder_attended is None:
        decoder_attended = torch.ones_like(decoder_ids)
    at = prompted(model, ids, attended, decoder_attended)
    decoder = {} if decoder_ids is None else {"decoder_input_ids": decoder_ids}
    logits: Tensor = blocks.core(model)(**at.inputs, **decoder, **at.decoder).logits
    return logits[:, at.skip :]


def generate(model: Any, ids: Tensor, attended: Tensor, **options: Any) -> Tensor:
    """`model.generate` for models with and without a soft prompt, exact for rows padded on the left.

    peft's own `generate` puts virtual tokens before the padding and ignores positions, which moves them away from the row's first
    token; here they stand next to it.

    Returns:
        [B, T + new] of a decoder, [B, 1 + new] of an encoder-decoder, as transformers does.
    """
    inner, length = blocks.core(model), virtual_tokens(model)
    if not has_soft_prompt(model):
        out: Tensor = inner.generate(input_ids=ids, attention_mask=attended.long(), **options)
    elif _is_prefix(model):
        out = _generate_after_prefix(model, ids, attended, length, options)
    else:
        embeddings, mask = _embedded(model, ids, attended)
        out = inner.generate(inputs_embeds=embeddings, attention_mask=mask, **options)
        out = out if inner.config.is_encoder_decoder else torch.cat([ids, out], 1)
    return out


def _generate_after_prefix(model: Any, ids: Tensor, attended: Tensor, length: int, options: dict[str, Any]) -> Tensor:
    """transformers drops as many leading ids as the cache holds, so that many dummy ids are prepended and cut off again."""
    inner, cache = blocks.core(model), model.get_prompt(len(ids))
    if inner.config.is_encoder_decoder:
        start = torch.full((len(ids), length + 1), inner.config.decoder_start_token_id, device=ids.device)
        more = {"decoder_input_ids": start, "decoder_attention_mask": torch.ones_like(start), "past_key_values": cache}
        out: Tensor = inner.generate(input_ids=ids, attention_mask=attended.long(), **more, **options)
    else:
        filled = torch.cat([ids.new_zeros(len(ids), length), ids], 1)
        out = inner.generate(input_ids=filled, attention_mask=_before(attended, length), past_key_values=cache, **options)
    return out[:, length:]


def _is_prefix(model: Any) -> bool:
    return str(model.active_peft_config.peft_type.value) == "PREFIX_TUNING"


def _before(attended: Tensor, length: int) -> Tensor:
    """The mask [B, length + T] in which every token attends to the virtual tokens."""
    return torch.cat([attended.new_ones(len(attended), length), attended], 1).long()


def _embedded(model: Any, ids: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings [B, V + T, H] with the virtual tokens right before the first token of each row, and their mask [B, V + T]."""
    tokens = blocks.core(model).get_input_embeddings()(ids)
    prompt = model.get_prompt(len(ids)).to(tokens.dtype)
    started = attended.cumsum(1) > 0
    rank = torch.where(started, 2, 0)  # padding on the left, then the virtual tokens, then the row's tokens and what follows
    order = torch.cat([rank.new_ones(prompt.shape[:2]), rank], 1).argsort(dim=1, stable=True)
    mask = _before(attended, prompt.shape[1]).gather(1, order)
    together = torch.cat([prompt, tokens], 1)
    return together.gather(1, order[..., None].expand_as(together)), mask
