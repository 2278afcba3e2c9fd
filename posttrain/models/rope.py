"""Rotary positions that are scaled by the longest sequence of a batch: LongRoPE (arXiv 2402.13753) and dynamic NTK scaling.

transformers picks the factors of a whole batch by its largest position, so a short row beside a long one gets other scores than
alone, and dynamic NTK even remembers the longest sequence that it has seen. Up to the length of pretraining nothing is scaled.
"""

from __future__ import annotations

from typing import Any

LIMITS = {"longrope": "original_max_position_embeddings", "dynamic": "max_position_embeddings"}  # by rope type, of the config


def unscaled_up_to(config: Any) -> int | None:
    """Tokens up to which positions are independent of the rest of a batch; None where they always are."""
    text = config.get_text_config()
    given: dict[str, Any] = getattr(text, "rope_parameters", None) or {}
    kinds = [each for each in given.values() if isinstance(each, dict)] or [given]  # one for each kind of attention, or for all
    found = [
        kind.get(LIMITS[kind["rope_type"]]) or getattr(text, LIMITS[kind["rope_type"]], None) or text.max_position_embeddings
        for kind in kinds
        if kind.get("rope_type") in LIMITS
    ]
    return min(map(int, found), default=None)


def forget_lengths(model: Any) -> None:
    """Let dynamic scaling start from the frequencies of pretraining, as it does in a model that was just loaded."""
    if unscaled_up_to(model.config) is None:
        return
    for module in model.modules():
        for name in [name for name in module._buffers if name.endswith("original_inv_freq")]:
            cached = name.replace("original_inv_freq", "max_seq_len_cached")
            if not hasattr(module, "original_max_seq_len") or not hasattr(module, cached):
                continue
            setattr(module, name.replace("original_", ""), getattr(module, name).clone())
            setattr(module, cached, module.original_max_seq_len)
