"""Decoding with a cache: every prompt is encoded once, and rows that ended leave the batch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from posttrain.key_values import Room, Rooms, kept, moves
from posttrain.packing import Tokens
from posttrain.peft.blocks import core
from posttrain.peft.soft_prompts import virtual_tokens

PROMPT_TOKENS = {"cpu": 2**11, "cuda": 2**16}  # of prompts encoded together
DROP = 8  # rows are dropped when one in so many ended
BLOCK = 512  # tokens of the vocabulary that are first chosen together
BLOCK_ELEMENTS = {"cpu": 2**19, "cuda": 2**25}  # probabilities held at once


def can_decode(model: nn.Module) -> bool:
    """Whether a model is a decoder whose past is keys and values and nothing else, without a soft prompt before them."""
    inner = core(model)
    if inner.config.is_encoder_decoder or virtual_tokens(model):
        return False
    layers = DynamicCache(config=inner.config).layers
    named = {"attention_mask", "position_ids", "past_key_values"} <= inspect.signature(inner.forward).parameters.keys()
    return named and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


@dataclass
class Rows:
    """B responses in progress. Prompts stand on the left of one column, from which on all rows get their next tokens."""

    cache: Rooms
    attended: Tensor  # [B, columns], 1 where there is a token or will be one
    positions: Tensor  # [B], of the next token
    responses: Tensor  # [B], the number of each row's response
    ended: Tensor  # [B]

    def drop(self, left: int, tokens: Tensor) -> Tensor:
        """Let the last rows take the places of those that ended; the remaining of `tokens` [B]."""
        places, movers = moves(self.ended, left)
        for room in self.cache.rooms:
            room.move(places, movers, left)
        order = kept(places, movers, left)
        self.attended, self.positions = self.attended[order], self.positions[order]
        self.responses, self.ended = self.responses[order], self.ended[order]
        return tokens[order]

    def advance(self, model: Any, tokens: Tensor) -> Tensor:
        """Append `tokens` [B]; the logits [B, V] of those after them."""
        seen = self.cache.filled + 1
        logits = _next_logits(model, tokens[:, None], self.attended[:, :seen], self.positions[:, None], self.cache)
        self.positions += 1
        return logits


def decode(
    model: nn.Module, prompts: Sequence[Tokens], owner: Sequence[int], uniforms: Tensor, temperature: float, eos: int
) -> Tensor:
    """Draw B responses from a model of which `can_decode` holds.

    Args:
        model: in evaluation mode.
        prompts: the longest first.
        owner: the prompt of each response, ascending.
        uniforms: [B, N, 2] fp64 random numbers in [0, 1), for at most N tokens.
        temperature: above 0.
        eos: token that ends a response.

    Returns:
        [B, N] token ids; what follows EOS means nothing.

    Raises:
        FloatingPointError: when logits are not finite.
    """
    inner = core(model)
    rows, logits = encode(inner, prompts, owner, uniforms.shape[1], PROMPT_TOKENS[inner.device.type])
    _refuse_not_finite(logits)
    uniforms = uniforms.to(logits.device)
    out = uniforms.new_full(uniforms.shape[:2], eos, dtype=torch.long)
    for step in range(uniforms.shape[1]):
        tokens = draw(logits, temperature, uniforms[rows.responses, step])
        out[rows.responses, step] = tokens
        rows.ended |= tokens == eos
        left = len(tokens) - int(rows.ended.sum())
        if not left or step + 1 == uniforms.shape[1]:
            break
        if left <= len(tokens) - len(tokens) / DROP:
            tokens = rows.drop(left, tokens)
        logits = rows.advance(inner, tokens)
    _refuse_not_finite(logits)
    return out


def encode(model: Any, prompts: Sequence[Tokens], owner: Sequence[int], new: int, budget: int) -> tuple[Rows, Tensor]:
    """The rows that continue the prompts by up to `new` tokens, and the logits [B, V] of their first.

    `prompts` and `owner` are those of `decode`; at most `budget` tokens go through the model together.
    """
    of, width = torch.tensor(owner, device=model.device), len(prompts[0])
    rooms: list[Room] = []
    logits = []
    for first, last in _groups(prompts, budget):
        ids, attended = (part.to(model.device) for part in padded(prompts[first:last], "left"))
        cache = DynamicCache()
        logits.append(_next_logits(model, ids, attended, (attended.cumsum(1) - 1).clamp(min=0), cache))
        encoded: list[Any] = cache.layers
        rooms = rooms or [Room(len(owner), width + new - 1, width, layer) for layer in encoded]
        start, stop = np.searchsorted(owner, (first, last))
        within = of[start:stop] - first
        for room, layer in zip(rooms, encoded, strict=True):
            room.put(slice(start, stop), layer.keys[within], layer.values[within])
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)[of]
    attended = (torch.arange(width + new, device=model.device) >= width - lengths[:, None]).long()
    rows = Rows(Rooms(rooms), attended, lengths, torch.arange(len(owner), device=model.device), of < 0)
    return rows, torch.cat(logits)[of]


def _groups(prompts: Sequence[Tokens], budget: int) -> Iterator[tuple[int, int]]:
    """Ranges of prompts, the longest first, of at most `budget` tokens with their padding."""
    first = 0
    while first < len(prompts):
        last = min(len(prompts), first + max(1, budget // len(prompts[first])))
        yield first, last
        first = last


def padded(prompts: Sequence[Tokens], side: str) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both [B, T]; a decoder continues where the row ends, so it is padded on the left."""
    rows = [torch.from_numpy(prompt.astype(np.int64)) for prompt in prompts]
    pad = functools.partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side=side)
    return pad(rows), pad([torch.ones_like(row) for row in rows])


def _next_logits(model: Any, ids: Tensor, attended: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """Logits [B, V] after the last of `ids` [B, T], which join the cache."""
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    given = {"input_ids": ids, "attention_mask": attended, "position_ids": positions, "past_key_values": cache}
    logits: Tensor = model(**given, use_cache=True, **last).logits
    return logits[:, -1]


def draw(logits: Tensor, temperature: float, uniforms: Tensor) -> Tensor:
    """One token for each row of logits [B, V], from softmax(logits / temperature) by inversion: first a block, then in it.

    Two random numbers choose among V tokens; `torch.multinomial` draws one for every token.

    Args:
        logits: [B, V].
        temperature: above 0.
        uniforms: [B, 2] fp64 in [0, 1).

    Returns:
        [B] token ids.
    """
    size = max(1, BLOCK_ELEMENTS[logits.device.type] // logits.shape[1])
    parts = zip(logits.split(size), uniforms.split(size), strict=True)
    return torch.cat([_draw((part.float() / temperature).softmax(-1), u) for part, u in parts])


def _draw(p: Tensor, uniforms: Tensor) -> Tensor:
    vocabulary = p.shape[1]
    whole = vocabulary - vocabulary % BLOCK
    masses = [p[:, :whole].unflatten(1, (-1, BLOCK)).sum(2)] if whole else []
    masses += [p[:, whole:].sum(1, keepdim=True)] if whole < vocabulary else []
    start = _invert(torch.cat(masses, 1), uniforms[:, :1]) * BLOCK
    at = start + torch.arange(BLOCK, device=p.device)
    inside = p.gather(1, at.clamp(max=vocabulary - 1)).masked_fill_(at >= vocabulary, 0.0)
    return (start + _invert(inside, uniforms[:, 1:]))[:, 0]


def _invert(masses: Tensor, uniform: Tensor) -> Tensor:
    """The first index [B, 1] at which the sum of masses [B, K] exceeds the share `uniform` [B, 1] of all."""
    edges = masses.cumsum(1, dtype=torch.float64)
    return torch.searchsorted(edges, uniform * edges[:, -1:], right=True).clamp_(max=masses.shape[1] - 1)


def _refuse_not_finite(logits: Tensor) -> None:
    if not logits.isfinite().all():
        raise FloatingPointError("the policy's logits are not finite: nothing can be sampled from it")
