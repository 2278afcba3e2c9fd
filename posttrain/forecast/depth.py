"""What a deep model would take, from two shallow ones: blocks are alike, so what a phase holds grows by the same with each.

Tracing 30 blocks takes ten times as long as tracing three. Where the blocks are not alike, which their parameters tell, the whole
model is traced. Sliding and full attention are alike: neither trains with a mask, and the cache has room for all tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from transformers import PreTrainedConfig

from posttrain.checkpoints.load import parameters_of
from posttrain.forecast.phases import Peak
from schemas.errors import Refusal

DEPTHS = ("num_hidden_layers", "num_decoder_layers")  # in a config; transformers maps other names to the first

Trace = Callable[[PreTrainedConfig], list[Peak]]


def peaks_of(config: PreTrainedConfig, trace: Trace, least: int = 0) -> list[Peak]:
    """The peaks of `trace(config)`, extrapolated from models with few of its blocks where these are alike.

    Args:
        config: of the whole model.
        trace: from a config to the peaks of its phases.
        least: blocks that a shallow model must have, as for a method that trains the last so many.
    """
    depth, few = getattr(config, DEPTHS[0], 0), max(2, least + 1, len(set(_types(config))) + 1)
    if depth <= few + 2 or not _grows_evenly(config, few):
        return trace(config)
    try:
        shallow, deeper = trace(shortened(config, few)), trace(shortened(config, few + 1))
    except (Refusal, ValueError):  # of a method that names blocks by their number
        return trace(config)
    if [peak.phase for peak in shallow] != [peak.phase for peak in deeper]:
        return trace(config)
    return [_at(one, other, depth - few) for one, other in zip(shallow, deeper, strict=True)]


def shortened(config: PreTrainedConfig, blocks: int) -> PreTrainedConfig:
    """The config with some of its blocks, one of each type among them; of an encoder-decoder in both stacks."""
    types, short = _types(config), copy.deepcopy(config)
    chosen = sorted(range(len(types)), key=lambda block: (types.index(types[block]) != block, block))[:blocks]
    for name, value in _lists(config).items():
        setattr(short, name, [value[block] for block in chosen])
    for name in DEPTHS:
        if getattr(config, name, None):
            setattr(short, name, blocks)
    return short


def _types(config: PreTrainedConfig) -> list[str]:
    """What the config says of each block alone, such as the kind of its attention."""
    return [repr(each) for each in zip(*_lists(config).values(), strict=True)]


def _lists(config: PreTrainedConfig) -> dict[str, list[Any]]:
    depth = getattr(config, DEPTHS[0], 0)
    return {name: value for name, value in vars(config).items() if isinstance(value, list) and len(value) == depth}


def _grows_evenly(config: PreTrainedConfig, few: int) -> bool:
    """Whether all further blocks have as many parameters as the one after the first `few`."""
    depth: int = getattr(config, DEPTHS[0])
    if getattr(config, DEPTHS[1], None) not in (None, depth):
        return False
    one, other, whole = (parameters_of(shortened(config, blocks)) for blocks in (few, few + 1, depth))
    return whole - one == (other - one) * (depth - few)


def _at(one: Peak, other: Peak, blocks: int) -> Peak:
    """The line through two peaks that are one block apart, `blocks` of them beyond the first."""
    sizes = {f.name: getattr(one, f.name) for f in fields(one) if f.name != "phase"}
    return replace(one, **{name: size + blocks * (getattr(other, name) - size) for name, size in sizes.items()})
