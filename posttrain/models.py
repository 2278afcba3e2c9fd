"""Models and tokenizers in memory: new from a config, or loaded from a policy with its adapters merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from posttrain.policy import Policy
from posttrain.tokenizer import prepare_tokenizer
from schemas.errors import Refusal
from schemas.model import ScratchModel


def scratch_config(spec: ScratchModel, vocab_size: int) -> LlamaConfig:
    """A Llama-3-shaped config."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size or -(-spec.hidden_size * 8 // 3 // 32) * 32,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        max_position_embeddings=spec.max_length,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
        tie_word_embeddings=spec.tie_embeddings,
    )


def scratch_model(spec: ScratchModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """A randomly initialised Llama-3-shaped decoder for this tokenizer; the seed fixes every weight."""
    torch.manual_seed(seed)
    config = scratch_config(spec, len(tokenizer))
    config.bos_token_id, config.eos_token_id, config.pad_token_id = None, tokenizer.eos_token_id, tokenizer.pad_token_id
    return LlamaForCausalLM(config)


def load_tokenizer(policy: Policy) -> PreTrainedTokenizerBase:
    """The policy's tokenizer with EOS, padding and chat template in place."""
    return prepare_tokenizer(_loading(policy, lambda: AutoTokenizer.from_pretrained(policy.base, **_where(policy))))


def load_config(policy: Policy) -> PreTrainedConfig:
    """The policy's architecture without its weights."""
    config: PreTrainedConfig = _loading(policy, lambda: AutoConfig.from_pretrained(policy.base, **_where(policy)))
    return config


def load_model(policy: Policy, device: torch.device) -> nn.Module:
    """The policy's weights in fp32 with its adapters merged.

    Raises:
        Refusal: when the checkpoint cannot be read, or lacks or has weights that the architecture does not expect.
    """
    model, info = _loading(
        policy,
        lambda: AutoModelForCausalLM.from_pretrained(
            policy.base,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, like missing ones
            **_where(policy),
        ),
    )
    wrong = {kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(kind)}
    if wrong:
        raise Refusal(
            f"model ({policy.base})",
            f"weights that do not fit the architecture: {wrong}",
            "exactly its weights",
            "mend the checkpoint",
        )
    for adapter in policy.adapters:
        model = merge_adapter(model, adapter)
    loaded: nn.Module = model.to(device)
    return loaded


def merge_adapter(model: nn.Module, adapter: Path) -> Any:
    """The model with an adapter folder merged into its weights or, where that would not be exact, frozen beside them.

    Raises:
        Refusal: when the adapter was not trained on this model, or lacks or has tensors that its method does not ask for.
    """
    from posttrain.peft.merge import stack

    return stack(model, adapter)


def _where(policy: Policy) -> dict[str, Any]:
    return {"revision": policy.revision, "trust_remote_code": policy.trust_remote_code}


def _loading(policy: Policy, load: Any) -> Any:
    try:
        return load()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Refusal(
            f"model ({policy.base})",
            f"a checkpoint that cannot be loaded: {first_line}",
            "a folder of save_pretrained with safetensors and tokenizer, or a hub id that is reachable or cached",
            "check the path or name; offline, download it first and use model.source local",
        ) from error
