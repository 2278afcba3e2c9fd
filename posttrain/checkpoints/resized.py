"""Checkpoints with an embedding for every token of their tokenizer, as folders that every stage and consumer loads.

    CACHE/<digest>/       the checkpoint in its own precision with the new rows, and its tokenizer
    CACHE/<digest>.json   manifest of that folder; one that does not agree with it is made again

A new row is the mean of the old ones: a token that nothing is known about gets the mean logit, and reads as the mean token. New
rows that are drawn at random can have the largest logit of all (Hewitt 2021, nlp.stanford.edu/~johnhew/vocab-expansion.html).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from posttrain.checkpoints.load import load_base, load_config, tokenizer_as_found
from posttrain.models.policy import Policy
from posttrain.models.vocabulary import unknown_tokens
from posttrain.runtime.cached_folder import cached_folder
from schemas.errors import Refusal

WAY = "mean"  # how new rows are made, in the name of a folder


def resized(policy: Policy, digest: str, cache: Path) -> Policy:
    """The policy with an embedding for each of its tokens; the policy itself where it has one already.

    Args:
        policy: a checkpoint without adapters.
        digest: of its content.
        cache: folder of all resized checkpoints.

    Raises:
        Refusal: when it has adapters, which belong to the vocabulary as it was, or an architecture that cannot be resized.
    """
    new = unknown_tokens(tokenizer_as_found(policy), load_config(policy))
    if not new:
        return policy
    if policy.adapters:
        raise _refusal("adapters on the checkpoint, which were trained on its vocabulary as it is", "a checkpoint alone")
    rows = max(new) + 1
    name = hashlib.sha256(f"{digest}|{rows}|{WAY}".encode()).hexdigest()
    folder = cached_folder(cache / name, lambda scratch: _resize(policy, rows, scratch))
    return replace(policy, base=str(folder), revision="main", new_tokens=tuple(new))


def _resize(policy: Policy, rows: int, scratch: Path) -> Path:
    model = load_base(policy, dtype="auto")
    old = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(rows, mean_resizing=False)  # which would draw from around the mean
    readers = [model] if not model.config.is_encoder_decoder else [model.get_encoder(), model.get_decoder()]
    if any(each.get_input_embeddings().weight.shape[0] != rows for each in readers):
        kind = model.config.model_type
        raise _refusal(f"{kind}, whose encoder and decoder have vocabularies of their own", "one vocabulary")
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        for tensor in () if layer is None else (layer.weight, getattr(layer, "bias", None)):
            fill(tensor, old)
    model.config._name_or_path = ""
    model.save_pretrained(scratch)
    tokenizer_as_found(policy).save_pretrained(scratch)
    return scratch


@torch.no_grad()
def fill(tensor: Tensor | None, old: int) -> None:
    """Set the rows from `old` on to the mean of those before, of a tensor [rows, width] or [rows], in place."""
    if tensor is not None:
        tensor[old:] = tensor[:old].float().mean(0).to(tensor.dtype)


def _refusal(found: str, allowed: str) -> Refusal:
    return Refusal(
        where="model.resize_embeddings",
        found=f"true, and {found}",
        allowed=allowed,
        remedy="resize the embeddings with transformers (model.resize_token_embeddings) and save the model with its tokenizer",
    )
