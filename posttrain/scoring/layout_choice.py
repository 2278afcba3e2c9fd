"""The start-up check: which layout is the fastest that scores as the model's own forward pass does."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from posttrain.data.packing import Example
from posttrain.scoring.layouts import LAYOUTS
from posttrain.scoring.scorer import PLAIN, Scorer, inner_model
from posttrain.scoring.segment_attention import SEGMENTS

TOLERANCE = 1e-4  # largest difference of a log-probability that counts as exact, in fp32
CHECKED = 32  # tokens of a completion that the check scores
REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError, ImportError)  # of a layout, by a model
LayoutError = Callable[[Any, str, Sequence[Example]], float]
"""From a scorer, a layout and examples to the largest difference from what the model's own forward pass gives."""


@dataclass(frozen=True)
class LayoutChoice:
    """A layout and the attention it needs. As a string it is the sentence of the report."""

    layout: str
    attention: str
    """Implementation of attention, by transformers' name."""
    swapped: bool
    """Whether this attention is not the model's own."""
    error: float | None
    """Largest difference from the model's own scores; None for `plain`, which is the model's own."""
    doubts: tuple[str, ...] = ()
    """Why faster layouts were rejected, and which examples are scored in another way."""

    def apply(self, scorer: Scorer) -> None:
        """Have a scorer use this layout, and its model this attention."""
        scorer.layout = self.layout
        _set_attention(inner_model(scorer.model), self.attention)

    def __str__(self) -> str:
        if self.error is None:
            return "; ".join([f"{self.layout}: the model's own forward pass, slow", *self.doubts])
        name = _name(self.layout, self.attention, self.swapped)
        return "; ".join([f"{name}: differs from the model's own scores by at most {self.error:.1e}", *self.doubts])


@torch.no_grad()
def layout_error(scorer: Scorer, layout: str, examples: Sequence[Example]) -> float:
    """Largest difference of log-probabilities in fp32 between a layout and the model's own logits, one sequence at a time."""
    exact = Scorer(scorer.model, scorer.device, torch.float32, layout, temperature=scorer.temperature)
    plain = Scorer(scorer.model, scorer.device, torch.float32, PLAIN, temperature=scorer.temperature)
    together = exact.score_in_one_row(examples) if layout == "packed" else exact(examples)
    alone = torch.cat([plain([Example(e.prompt, (b,))]).logprobs for e in examples for b in e.branches])
    return float((together.logprobs - alone).abs().nan_to_num(nan=math.inf).max())


def choose_layout(scorer: Scorer, examples: Sequence[Example], error_of: LayoutError = layout_error) -> LayoutChoice:
    """The fastest layout that is exact on three of the examples; the scorer stays as it is."""
    few, doubts = _checked(scorer, examples)
    own = inner_model(scorer.model).config._attn_implementation
    for layout, attention in _candidates(scorer, own):
        swapped = attention != own
        name = _name(layout, attention, swapped)
        try:
            with _attention(inner_model(scorer.model), attention):
                if swapped:
                    _train_once(scorer, few)
                error = error_of(scorer, layout, few)
        except torch.OutOfMemoryError:
            raise
        except REFUSALS as failure:
            doubts.append(f"the model refuses the {name} layout ({type(failure).__name__}: {failure})")
            continue
        if error <= TOLERANCE:
            return LayoutChoice(layout, attention, swapped, error, tuple(doubts))
        doubts.append(f"{name} would change scores by {error:.1e}, above {TOLERANCE:.0e}")
    return LayoutChoice(PLAIN, own, swapped=False, error=None, doubts=tuple(doubts))


@torch.no_grad()
def take_first_layout(scorer: Scorer, examples: Sequence[Example]) -> None:
    """Have a scorer use the fastest layout that its model does not refuse; nothing is compared, as numbers are not asked for."""
    inner = inner_model(scorer.model)
    own = inner.config._attn_implementation
    for layout, attention in [*_candidates(scorer, own), (PLAIN, own)]:
        scorer.layout = layout
        _set_attention(inner, attention)
        try:
            scorer(examples)
        except torch.OutOfMemoryError:
            raise
        except REFUSALS:
            continue
        return


def with_few_targets(example: Example) -> Example:
    """As long, with fewer scored tokens: the model's own logits of all would be the largest tensor of the whole run."""
    if len(example.branches) > 1:
        return Example(example.prompt, tuple(branch[:CHECKED] for branch in example.branches))
    tokens = np.concatenate([example.prompt, example.branches[0]])
    start = max(1, len(tokens) - CHECKED)
    return Example(tokens[:start], (tokens[start:],))


def _checked(scorer: Scorer, examples: Sequence[Example]) -> tuple[list[Example], list[str]]:
    """The longest example that can be packed and the two shortest, with few targets; and a sentence about longer ones."""
    by_length = sorted(examples, key=lambda example: example.length)
    together = [example for example in by_length if not scorer.scaled([example])] or by_length
    few = [with_few_targets(example) for example in (together[-1], *together[:2])]
    if together[-1] is by_length[-1]:
        return few, []
    alone = len(by_length) - len(together)
    return few, [f"{alone} examples whose length scales the positions: one sequence at a time"]


def _candidates(scorer: Scorer, own: str) -> Iterable[tuple[str, str]]:
    """Layouts and attentions to try, the fastest first.

    FlexAttention and segments both skip what a mask hides. FlexAttention trains on CUDA only; segments launch one kernel each,
    too costly on a GPU. They replace SDPA alone: a model with another attention (soft caps) needs its own.
    """
    if scorer.layout != "packed":
        return [(scorer.layout, own)] if scorer.layout in LAYOUTS else []
    fast = {"cuda": "flex_attention", "cpu": SEGMENTS}.get(scorer.device.type, own) if own == "sdpa" else own
    return list(dict.fromkeys([("packed", fast), ("packed", own), ("padded", own)]))


def _train_once(scorer: Scorer, examples: Sequence[Example]) -> None:
    """An attention that is not the model's own must also get through a backward pass."""
    if any(p.requires_grad for p in scorer.model.parameters()):
        scorer(examples).per_branch().sum().backward()
        scorer.model.zero_grad(set_to_none=True)


@contextlib.contextmanager
def _attention(model: Any, attention: str) -> Iterator[None]:
    """The model with another attention for a while."""
    own = model.config._attn_implementation
    try:
        _set_attention(model, attention)
        yield
    finally:
        _set_attention(model, own)


def _set_attention(model: Any, attention: str) -> None:
    if model.config._attn_implementation != attention:
        model.set_attn_implementation(attention)


def _name(layout: str, attention: str, swapped: bool) -> str:
    return f"{layout} with {attention}" if swapped else layout
