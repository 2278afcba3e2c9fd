"""Merge a trained adapter into the weights where that is exact, and prove it by comparing logits before and after."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.models import blocks
from posttrain.peft.applied import adapted
from posttrain.peft.delta import Bottleneck
from posttrain.peft.fold import fold, foldable
from posttrain.peft.methods import METHODS
from posttrain.peft.rounding import allowed_difference
from posttrain.peft.soft_prompts import has_soft_prompt
from posttrain.peft.stacking import families_in
from posttrain.peft.wrap import load_adapter
from schemas.errors import Refusal

PROBE = (2, 16)  # rows and tokens of the input on which logits are compared


def stack(model: nn.Module, folder: Path) -> nn.Module:
    """The model with a saved adapter, merged where that is exact, otherwise attached and frozen.

    Raises:
        Refusal: when the adapter does not belong on this model, or a merge that should be exact is not.
    """
    wrapped, tuner = load_adapter(model, folder)
    if tuner is None or not_mergeable(wrapped, tuner):
        return wrapped
    return _merged(wrapped, tuner, f"adapter ({folder})")


def merge(model: nn.Module) -> nn.Module:
    """The plain transformers model that computes what a wrapped and trained one does.

    Raises:
        Refusal: with the reason, when there is none.
    """
    known = adapted(model)
    where = f"peft.method ({'' if known is None else known.spec.method})"
    if known is not None and known.tuner is not None:
        if reason := not_mergeable(model, known.tuner):
            raise _refusal(where, reason)
        return _merged(model, known.tuner, where)
    if is_plain(model):
        return model
    if not is_foldable(model):
        raise _refusal(where, _ADDS)
    return _folded(model, where)


def is_plain(model: nn.Module) -> bool:
    """Whether the model is a plain transformers model, which `save_pretrained` writes completely."""
    return blocks.core(model) is model and not any(isinstance(module, Bottleneck) for module in model.modules())


def is_foldable(model: nn.Module) -> bool:
    """Whether parallel bottleneck adapters are all that keeps the model from being plain, and it can take them in."""
    return blocks.core(model) is model and families_in(model) == {"adapters"} and foldable(model)


_ADDS = "it adds computation that the base's architecture has no place for"


def not_mergeable(model: Any, tuner: Any) -> str | None:
    """Why an adapter has to stay beside the weights; None when it can be merged."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if has_soft_prompt(tuner):
        return _ADDS
    layers = [module for module in blocks.core(model).modules() if isinstance(module, BaseTunerLayer)]
    if any(isinstance(child, Bottleneck) for layer in layers for child in layer.get_base_layer().children()):
        return "its update would pass through the bottleneck adapter of the same layer"
    if getattr(blocks.core(model), "quantization_method", None) is not None:
        return "the base is quantised, and the update would be rounded away"
    return None


def _folded(model: nn.Module, where: str) -> nn.Module:
    """Fold in place."""
    training, before = model.training, probe(model.eval())
    fold(model)
    _compare(model, before, where)
    return model.train(training)


def _merged(model: Any, tuner: Any, where: str) -> nn.Module:
    """Merge in place; a soft prompt below keeps its place outside."""
    training = model.training
    before = probe(model.eval())
    # In place: copies would take memory beside the file that the weights are mapped from. `_compare` finds what is not finite.
    plain = tuner.merge_and_unload(safe_merge=False)
    merged: nn.Module = model if has_soft_prompt(model) else plain
    _compare(merged.eval(), before, where)
    return merged.train(training)


def _compare(merged: nn.Module, before: Tensor, where: str) -> None:
    """Difference relative to the outputs' norm (at least 1): a score may be a small difference of large numbers."""
    allowed = allowed_difference(merged, next(merged.parameters()).dtype)
    size = max(float(torch.linalg.vector_norm(before)), math.sqrt(before.numel()))
    difference = float(torch.linalg.vector_norm(probe(merged) - before)) / size
    if not difference <= allowed:  # NaN does not pass either
        raise _refusal(where, f"merging it changes logits by {difference:.1e} of their norm, more than {allowed:.1e}")


@torch.no_grad()
def probe(model: Any) -> Tensor:
    """The model's output on a fixed input that visits the whole vocabulary in large steps."""
    inner = blocks.core(model)
    rows, tokens = PROBE
    vocabulary = inner.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(rows * tokens, device=inner.device) * 7919 % vocabulary).view(rows, tokens)
    decoder = {"decoder_input_ids": ids.flip(1)} if inner.config.is_encoder_decoder else {}
    out = model(input_ids=ids, attention_mask=torch.ones_like(ids), **decoder)
    logits: Tensor = out.logits if hasattr(out, "logits") else out[0]  # a mixture's first output may be a loss
    return logits.float()


def _refusal(where: str, reason: str) -> Refusal:
    merging = ", ".join(name for name, method in METHODS.items() if method.merges)
    return Refusal(
        where=where,
        found=f"an adapter that cannot be merged: {reason}",
        allowed=f"methods that merge: {merging}",
        remedy="serve the base with the adapter beside it, or train with one of these",
    )
