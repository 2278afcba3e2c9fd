"""Models and tokenizers in memory: new from a config, or loaded from a policy with its adapters merged."""

from __future__ import annotations

import copy
import struct
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoTokenizer, GgufConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from posttrain.checkpoints.finite import refuse_not_finite
from posttrain.data.tokenizer import prepare_tokenizer
from posttrain.models.architectures import CONFIGS, auto_class
from posttrain.models.parameters import parameter_count
from posttrain.models.policy import Policy, adapter_beside
from posttrain.models.shards import refuse_outside_shards
from posttrain.models.sound_config import refuse_larger_than_files, refuse_unsound, refuse_unsound_file
from posttrain.runtime.cpu_products import fast_cpu_products
from posttrain.runtime.progress import working
from schemas.errors import Refusal
from schemas.model import ScratchModel

# What transformers raises on files that are missing, cut short or of an unknown kind, and on configs that make no sense.
BROKEN = (OSError, ValueError, KeyError, IndexError, NotImplementedError, struct.error, SafetensorError,
          StrictDataclassError, ArithmeticError, AssertionError, AttributeError, TypeError, RecursionError, StopIteration,
          ImportError)  # fmt: skip
READABLE = (
    "a folder of save_pretrained with safetensors and tokenizer, or a hub id that is reachable or cached",
    "check the path or name; offline, download it first and use model.source local",
)


def scratch_config(spec: ScratchModel, vocab_size: int) -> PreTrainedConfig:
    """The config of a new model."""
    return CONFIGS[spec.architecture](spec, vocab_size)


def scratch_model(spec: ScratchModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A randomly initialised model for this tokenizer; the seed fixes every weight.

    A decoder of an encoder-decoder starts from the padding token, as T5's does (arXiv 1910.10683).
    """
    fast_cpu_products()
    torch.manual_seed(seed)
    config = scratch_config(spec, len(tokenizer))
    config.bos_token_id, config.eos_token_id, config.pad_token_id = None, tokenizer.eos_token_id, tokenizer.pad_token_id
    if config.is_encoder_decoder:
        config.decoder_start_token_id = tokenizer.pad_token_id
    model: PreTrainedModel = auto_class(config).from_config(config)
    return model


def load_tokenizer(policy: Policy) -> PreTrainedTokenizerBase:
    """The policy's tokenizer with EOS, padding and chat template in place.

    Raises:
        Refusal: when it cannot be read, or cannot encode a letter.
    """
    found = tokenizer_as_found(policy)
    tokenizer: PreTrainedTokenizerBase = loading(policy, lambda: prepare_tokenizer(found, policy.chat_template))
    return tokenizer


def tokenizer_as_found(policy: Policy) -> PreTrainedTokenizerBase:
    """The policy's tokenizer as its files have it.

    Raises:
        Refusal: when it, or the config beside it, cannot be read.
    """
    refuse_unsound_file(_folder(policy), _name(policy))  # transformers may read it too
    tokenizer: PreTrainedTokenizerBase = loading(policy, lambda: AutoTokenizer.from_pretrained(policy.base, **place_of(policy)))
    return tokenizer


def load_config(policy: Policy) -> PreTrainedConfig:
    """The policy's architecture without its weights.

    Raises:
        Refusal: when it cannot be read, or has a size that is none.
    """
    refuse_unsound_file(_folder(policy), _name(policy))
    config: PreTrainedConfig = loading(policy, lambda: AutoConfig.from_pretrained(policy.base, **place_of(policy)))
    refuse_unsound(config, _name(policy))
    return config


def check_size(policy: Policy, config: PreTrainedConfig, kind: Any = None) -> None:
    """Refuse a config that no model can be made from, or a far larger one than the files hold, before memory is taken.

    Args:
        policy: the checkpoint; its adapters do not count.
        config: its config.
        kind: class that loads it; None: the one that generates.

    Raises:
        Refusal: naming the checkpoint.
    """
    if policy.gguf is None and not policy.trust_remote_code:
        model = loading(policy, lambda: _without_numbers(config, kind or auto_class(config)))
        loading(policy, lambda: refuse_larger_than_files(model, _folder(policy), _name(policy)))


def parameters_of(config: PreTrainedConfig) -> int:
    """Parameters of a model of this architecture, without making one."""
    return parameter_count(_without_numbers(config, auto_class(config)))


def _without_numbers(config: PreTrainedConfig, kind: Any) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = kind.from_config(copy.deepcopy(config))
        return model


def load_model(policy: Policy, device: torch.device) -> nn.Module:
    """The policy's weights in fp32 with its adapters merged.

    Raises:
        Refusal: when the checkpoint cannot be read, or lacks or has weights that the architecture does not expect.
    """
    model = load_base(policy)
    for adapter in policy.adapters:
        model = merge_adapter(model, adapter)
    loaded: nn.Module = model.to(device)
    return loaded


def load_base(policy: Policy, **options: Any) -> Any:
    """The policy's checkpoint in fp32, or another `dtype`, without its adapters; `options` go to transformers.

    Raises:
        Refusal: when the checkpoint cannot be read, lacks or has weights that the architecture does not expect, has an adapter
            beside it, or holds values that are not finite.
    """
    if Path(policy.base).is_dir():
        refuse_outside_shards(Path(policy.base), f"model ({_name(policy)})")
    fast_cpu_products()
    config, exact = load_config(policy), "quantization_config" not in options
    check_size(policy, config)
    options = {"dtype": torch.float32} | options
    options |= {"quantization_config": GgufConfig(dequantize=True)} if policy.gguf else {}
    with working(f"loading {Path(_name(policy)).name}"):
        model, info = loading(
            policy,
            lambda: auto_class(config).from_pretrained(
                policy.base,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, like missing ones
                **options,
                **place_of(policy),
            ),
        )
    wrong = {kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(kind)}
    if wrong:
        raise Refusal(
            where=f"model ({_name(policy)})",
            found=f"weights that do not fit the architecture: {wrong}",
            allowed="exactly its weights",
            remedy="mend the checkpoint",
        )
    if getattr(model, "_hf_peft_config_loaded", False):  # transformers puts an adapter that lies beside a checkpoint into it
        raise adapter_beside(f"model ({_name(policy)})", _name(policy))
    if exact:  # weights in fewer bits were made of finite ones
        refuse_not_finite(model, f"model ({_name(policy)})")
    return model


def merge_adapter(model: nn.Module, adapter: Path) -> Any:
    """The model with an adapter folder merged into its weights or, where that would not be exact, frozen beside them.

    Raises:
        Refusal: when the adapter was not trained on this model, or lacks or has tensors that its method does not ask for.
    """
    from posttrain.peft.merge import stack

    return stack(model, adapter)


def place_of(policy: Policy) -> dict[str, Any]:
    """What `from_pretrained` has to know of a policy beside its base."""
    places = {"revision": policy.revision, "trust_remote_code": policy.trust_remote_code}
    return places | ({"gguf_file": policy.gguf} if policy.gguf else {})


def _folder(policy: Policy) -> Path:
    """Where the checkpoint lies; of one on the hub, what the cache has of it, which is its config at least."""
    folder = Path(policy.base)
    if policy.gguf or folder.is_dir():
        return folder
    return Path(loading(policy, lambda: cached_file(policy.base, "config.json", revision=policy.revision))).parent


def _name(policy: Policy) -> str:
    return str(Path(policy.base) / policy.gguf) if policy.gguf else policy.base


def loading(policy: Policy, load: Any) -> Any:
    """What `load()` returns.

    Raises:
        Refusal: when transformers cannot read the checkpoint.
    """
    try:
        return load()
    except Exception as error:
        if not (isinstance(error, BROKEN) or type(error) is Exception):  # tokenizers raises Exception itself
            raise
        first_line = " ".join((str(error).strip().splitlines() or [type(error).__name__])[:2])
        allowed, remedy = _readable_gguf() if policy.gguf else READABLE
        raise Refusal(
            where=f"model ({_name(policy)})",
            found=f"a checkpoint that cannot be loaded: {first_line}",
            allowed=allowed,
            remedy=remedy,
        ) from error


def _readable_gguf() -> tuple[str, str]:
    """What may stand in a GGUF file, and what to do with another."""
    from transformers.integrations.gguf.gguf_conversion_mapping import GGUF_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    known = ", ".join(sorted({*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_ARCHS} - {"general", "tokenizer"}))  # no architectures
    return (
        f"a GGUF file with its tokenizer, of an architecture that transformers can dequantise: {known}",
        "take the safetensors checkpoint that the file was made from, with model.source hub or local",
    )
