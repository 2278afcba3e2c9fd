"""A checkpoint as one GGUF file in fp32, for llama.cpp and what is built on it: written, read back and compared exactly.

Names of tensors are the gguf package's. Rows of query and key are in llama.cpp's order, which pairs neighbours for rotary
positions where transformers pairs the halves of a head. What is written is read again by transformers: a file whose weights,
tokens or chat template are not exactly those of the checkpoint is refused.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from posttrain.checkpoints.load import load_model, load_tokenizer
from posttrain.models.policy import Policy
from schemas.errors import Refusal

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURE = "llama"
FIELD = "registry.export"
TEXTS = ("", "Hello, world!  Twice.\n\ttab", "naïve café, 12345.67", "東京 🙂", "User:\nWhat?\n\nAssistant:\n")
CPU = torch.device("cpu")


def check_gguf_export(model_type: str, merges: bool) -> None:
    """Refuse what cannot be written, before anything trains.

    Args:
        model_type: of the config.
        merges: whether the policy ends as one checkpoint.

    Raises:
        Refusal: for the first reason.
    """
    wrong = None
    if importlib.util.find_spec("gguf") is None:
        wrong = "gguf, and the package gguf is not installed", "pip install 'posttrain[gguf]', or remove it"
    elif model_type != ARCHITECTURE:
        wrong = (
            f"gguf of a model of type {model_type}",
            f"remove it, or convert the checkpoint of the {model_type} with llama.cpp",
        )
    elif not merges:
        wrong = "gguf of a policy whose adapter stays beside its base", "choose a method that merges, such as lora, or remove it"
    if wrong:
        allowed = f"gguf of a {ARCHITECTURE} that is one checkpoint, with the extra gguf"
        raise Refusal(where=FIELD, found=wrong[0], allowed=allowed, remedy=wrong[1])


def write_gguf(checkpoint: Path, path: Path) -> None:
    """Write a folder of save_pretrained as one file, and make sure that it holds the same.

    Raises:
        Refusal: when it does not, or the tokenizer is no byte-level BPE.
    """
    from gguf import GGUFWriter

    policy = Policy(str(checkpoint))
    model, tokenizer = load_model(policy, CPU), load_tokenizer(policy)
    writer = GGUFWriter(path, ARCHITECTURE)
    _write_config(writer, model.config)
    _write_tokenizer(writer, tokenizer)
    for name, weight in _tensors(model):
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _compare(path, model, tokenizer)


def _write_config(writer: GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: GGUFWriter, tokenizer: Any) -> None:
    """A byte-level BPE; others have other tables."""
    from gguf import TokenType

    said = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if said["type"] != "BPE" or said.get("byte_fallback"):
        raise _refused(f"a tokenizer of type {said['type']}", "a byte-level BPE")
    known = {index: token for token, index in tokenizer.get_vocab().items()}
    tokens = [known.get(index, f"<unused_{index}>") for index in range(max(known) + 1)]
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in said["merges"]])
    for name, add in (("eos", writer.add_eos_token_id), ("pad", writer.add_pad_token_id), ("bos", writer.add_bos_token_id)):
        if (token := getattr(tokenizer, f"{name}_token_id")) is not None:
            add(token)
    writer.add_add_bos_token(False)  # chats have it from their template
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _tensors(model: Any) -> list[tuple[str, NDArray[np.float32]]]:
    """Every weight under its name in the file; a head that is the embeddings is not written twice."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    config = model.config
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    found = []
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise _refused(f"a weight {name}, which GGUF has no name for", "the weights of a Llama")
        turned = heads.get(name.split(".")[-2])
        weight = tensor.detach().float().numpy()
        found.append((target, np.ascontiguousarray(_turned(weight, turned) if turned else weight)))
    return found


def _turned(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """[rows, ...] with the two halves of each head's rows interleaved."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


@torch.no_grad()
def _compare(path: Path, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Read the file as transformers does, and refuse it where anything is another."""
    policy = Policy(str(path.parent), gguf=path.name)
    again, own = load_model(policy, CPU), load_tokenizer(policy)
    ours, theirs = model.state_dict(), again.state_dict()
    differs = sorted(name for name in ours.keys() | theirs.keys() if not _equal(ours.get(name), theirs.get(name)))
    if differs:
        raise _refused(f"a file that reads back with another {differs[0]}", "exactly the weights of the checkpoint")
    for text in TEXTS:
        if own(text)["input_ids"] != tokenizer(text)["input_ids"]:
            raise _refused(f"a file whose tokenizer reads {text!r} otherwise", "exactly the tokens of the checkpoint")
    if own.chat_template != tokenizer.chat_template:
        raise _refused("a file with another chat template", "that of the checkpoint")


def _equal(ours: torch.Tensor | None, theirs: torch.Tensor | None) -> bool:
    return ours is not None and theirs is not None and torch.equal(ours.float(), theirs.float())


def _refused(found: str, allowed: str) -> Refusal:
    return Refusal(
        where=FIELD, found=found, allowed=allowed, remedy="remove gguf, and convert the registered checkpoint with llama.cpp"
    )
