"""Encoders that read a prompt and a response as a pair of texts and give one number, as transformers classifies sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from posttrain.checkpoints.finite import refuse_not_finite
from posttrain.checkpoints.load import check_size, load_config, loading, place_of, tokenizer_as_found
from posttrain.losses.reward import init_score
from posttrain.models.policy import Policy
from posttrain.runtime.cpu_products import fast_cpu_products
from schemas.errors import Refusal
from schemas.reward import ScratchEncoder


@dataclass(frozen=True)
class Encoder:
    """An encoder with one output."""

    model: PreTrainedModel
    new: tuple[str, ...] = ()
    """Modules in its body that the checkpoint lacks; the head outside its body is trained in any case."""


def encoder_config(spec: ScratchEncoder, vocab_size: int, max_length: int, pad_token_id: int | None) -> BertConfig:
    """The config of a new encoder."""
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=spec.hidden_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        intermediate_size=spec.intermediate_size or 4 * spec.hidden_size,
        max_position_embeddings=max_length,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=pad_token_id,
    )
    config.num_labels = 1
    return config


def scratch_encoder(
    spec: ScratchEncoder, tokenizer: PreTrainedTokenizerBase, max_length: int, device: torch.device, seed: int
) -> Encoder:
    """A randomly initialised encoder for this tokenizer; the seed fixes every weight."""
    fast_cpu_products()
    torch.manual_seed(seed)
    pad: Any = tokenizer.pad_token_id
    model: Any = AutoModelForSequenceClassification.from_config(encoder_config(spec, len(tokenizer), max_length, pad))
    _init_head(model)
    return Encoder(model.to(device))


def load_encoder(policy: Policy, device: torch.device, seed: int) -> Encoder:
    """An encoder in fp32 from a checkpoint, with its own head where that has one output, else with a new one.

    Raises:
        Refusal: when the checkpoint cannot be read, has sizes that its files do not hold, is not finite, or lacks more than the
            head and what pools for it.
    """
    fast_cpu_products()
    check_size(policy, load_config(policy), AutoModelForSequenceClassification)
    torch.manual_seed(seed)
    model, info = loading(
        policy,
        lambda: AutoModelForSequenceClassification.from_pretrained(
            policy.base, num_labels=1, dtype=torch.float32, use_safetensors=True, output_loading_info=True,
            ignore_mismatched_sizes=True, **place_of(policy),
        ),
    )  # fmt: skip
    lacking = {*info["missing_keys"], *(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])}
    body = f"{model.base_model_prefix}."
    pooler = f"{body}pooler"
    if beyond := sorted(name for name in lacking if name.startswith(body) and not name.startswith(f"{pooler}.")):
        raise Refusal(
            where=f"model ({policy.base})",
            found=f"a checkpoint without {beyond[0]}",
            allowed="all weights of its body",
            remedy="mend it",
        )
    if any(not name.startswith(body) for name in lacking):
        _init_head(model)
    refuse_not_finite(model, f"model ({policy.base})")
    return Encoder(model.to(device), (pooler,) if any(name.startswith(body) for name in lacking) else ())


def _init_head(model: Any) -> None:
    """Start the layer with the one output as a score head starts."""
    outside = [child for child in model.children() if child is not model.base_model]
    last = next(m for child in reversed(outside) for m in child.modules() if isinstance(m, nn.Linear) and m.out_features == 1)
    init_score(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)


def pair_tokenizer(policy: Policy) -> PreTrainedTokenizerBase:
    """An encoder's tokenizer, which puts its own special tokens around and between two texts."""
    return tokenizer_as_found(policy)


def joining_pairs(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A generator's tokenizer, made to put EOS before, between and after two texts; this is saved with it."""
    eos = tokenizer.eos_token
    fast: Any = tokenizer
    fast.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{eos} $A {eos}", pair=f"{eos} $A {eos} $B {eos}", special_tokens=[(eos, tokenizer.eos_token_id)]
    )
    return tokenizer


def marks_responses(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether an encoder's tokenizer says by token types which of two texts a token belongs to."""
    return "token_type_ids" in tokenizer.model_input_names
