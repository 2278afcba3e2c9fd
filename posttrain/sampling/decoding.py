"""Decoding with a cache: every prompt is encoded once, and finished rows leave the batch."""

from __future__ import annotations

import functools
import inspect
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from posttrain.data.packing import Tokens
from posttrain.models.blocks import core
from posttrain.models.routing import without_routing
from posttrain.peft.soft_prompts import virtual_tokens
from posttrain.sampling.kv_cache import PreallocatedCache, PreallocatedLayer, kept, moves
from posttrain.sampling.multinomial import NOTHING, draw

PROMPT_TOKENS = {"cpu": 2**10, "cuda": 2**16}  # of prompts encoded together: on a CPU they stay in its cache
DROP = 8  # rows are dropped when one in so many ended


def can_decode(model: nn.Module) -> bool:
    """Whether a model is a decoder whose only state is keys and values, without a soft prompt."""
    inner = core(model)
    if inner.config.is_encoder_decoder or virtual_tokens(model):
        return False
    layers = DynamicCache(config=inner.config).layers
    named = {"attention_mask", "position_ids", "past_key_values"} <= inspect.signature(inner.forward).parameters.keys()
    return named and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


@dataclass
class Batch:
    """B responses in progress. Prompts end at one column, from which on all rows get their next tokens."""

    cache: PreallocatedCache
    attended: Tensor  # [B, columns], 1 where there is a token or will be one
    positions: Tensor  # [B], of the next token
    responses: Tensor  # [B], the number of each row's response
    ended: Tensor  # [B]

    def drop(self, left: int, tokens: Tensor) -> Tensor:
        """Move the last rows into the places of finished ones; returns the remaining `tokens` [B]."""
        places, movers = moves(self.ended, left)
        for layer in self.cache.layers:
            layer.move(places, movers, left)
        order = kept(places, movers, left)
        self.attended, self.positions = self.attended[order], self.positions[order]
        self.responses, self.ended = self.responses[order], self.ended[order]
        return tokens[order]

    def advance(self, model: Any, tokens: Tensor) -> Tensor:
        """Append `tokens` [B]; the logits [B, V] of those after them."""
        logits: Tensor = model(
            input_ids=tokens.clamp(min=0)[:, None],  # a row that drew nothing has ended and is still there
            attention_mask=self.attended[:, : self.cache.filled + 1],
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
            **without_routing(model),
        ).logits
        self.positions += 1
        return logits[:, -1]


def decode(
    model: nn.Module, prompts: Sequence[Tokens], owner: Sequence[int], uniforms: Tensor, temperature: float, ends: Sequence[int],
    on_rows: Callable[[int], None] = lambda n: None,
) -> Tensor:  # fmt: skip
    """Draw B responses from a model that passes `can_decode`.

    Args:
        model: in evaluation mode.
        prompts: the longest first.
        owner: the prompt of each response, ascending.
        uniforms: [B, N, 2] fp64 random numbers in [0, 1), for at most N tokens.
        temperature: above 0.
        ends: tokens of which any ends a response.
        on_rows: told after each token how many more responses are done, those in progress by their share of N tokens.

    Returns:
        [B, N] token ids; those after the first of `ends` are meaningless.

    Raises:
        FloatingPointError: when logits are not finite.
    """
    inner = core(model)
    rows, tokens = encode(inner, prompts, owner, uniforms.shape[1], PROMPT_TOKENS[inner.device.type])
    uniforms, last = uniforms.to(tokens.device), tokens.new_tensor([NOTHING, *ends])
    out, done = tokens.new_zeros(uniforms.shape[:2]), 0
    for step in range(uniforms.shape[1]):
        tokens = draw(rows.advance(inner, tokens), temperature, uniforms[rows.responses, step])
        out[rows.responses, step] = tokens
        rows.ended |= torch.isin(tokens, last)
        left = len(tokens) - int(rows.ended.sum())
        done, before = len(owner) - left + left * (step + 1) // uniforms.shape[1], done
        on_rows(done - before)
        if not left:
            break
        tokens = rows.drop(left, tokens) if left <= len(tokens) - len(tokens) / DROP else tokens
    if (out == NOTHING).any():
        raise FloatingPointError("the policy's logits are not finite: nothing can be sampled from it")
    return out


def encode(model: Any, prompts: Sequence[Tokens], owner: Sequence[int], new: int, budget: int) -> tuple[Batch, Tensor]:
    """The rows that continue the prompts by up to `new` tokens, and the last tokens [B] of the prompts, with which they begin.

    `prompts` and `owner` are those of `decode`; at most `budget` tokens go through the model together.
    """
    of = torch.tensor(owner, device=model.device)
    past = torch.tensor([len(prompt) - 1 for prompt in prompts], device=model.device)[of]
    width, layers = max(1, len(prompts[0]) - 1), list[PreallocatedLayer]()
    for first, last in _groups(prompts, budget):
        encoded: list[Any] = _encoded(model, prompts[first:last])
        layers = layers or [PreallocatedLayer(len(owner), width + new, width, layer) for layer in encoded]
        rows = slice(bisect_left(owner, first), bisect_left(owner, last))
        columns = encoded[0].keys.shape[2]
        take = (torch.arange(-columns, 0, device=model.device) + past[rows, None]).clamp(min=0)
        for layer, short in zip(layers, encoded, strict=True):
            layer.put(rows, *(_taken(part, of[rows] - first, take) for part in (short.keys, short.values)))
    attended = (torch.arange(width + new, device=model.device) >= width - past[:, None]).long()
    tokens = torch.tensor([int(prompt[-1]) for prompt in prompts], device=model.device)[of]
    return Batch(PreallocatedCache(layers), attended, past, torch.arange(len(owner), device=model.device), of < 0), tokens


def _encoded(model: Any, prompts: Sequence[Tokens]) -> list[Any]:
    """The cache's layers after all but the last token of each prompt; entries to the right of a shorter prompt are meaningless.

    Padding on the right needs no mask: a token sees what is left of it. A one-token prompt is
    still encoded; its result is unused.
    """
    ids, _ = pad_prompts([prompt[: max(1, len(prompt) - 1)] for prompt in prompts], "right")
    positions = torch.arange(ids.shape[1], device=model.device).expand_as(ids)
    cache = DynamicCache()
    model.base_model(
        input_ids=ids.to(model.device), position_ids=positions, past_key_values=cache, use_cache=True, **without_routing(model)
    )
    return list(cache.layers)


def _taken(part: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Of keys or values [P, heads, T, D] the given rows [B], and of each its columns [B, C]: [B, heads, C, D]."""
    return part.transpose(1, 2)[rows[:, None], columns].transpose(1, 2)


def _groups(prompts: Sequence[Tokens], budget: int) -> Iterator[tuple[int, int]]:
    """Ranges of prompts, the longest first, of at most `budget` tokens with their padding."""
    first = 0
    while first < len(prompts):
        last = min(len(prompts), first + max(1, budget // len(prompts[first])))
        yield first, last
        first = last


def pad_prompts(prompts: Sequence[Tokens], side: str) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both [B, T]; a decoder continues where the row ends, so it is padded on the left."""
    rows = [torch.from_numpy(prompt.astype(np.int64)) for prompt in prompts]
    pad = functools.partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side=side)
    return pad(rows), pad([torch.ones_like(row) for row in rows])
