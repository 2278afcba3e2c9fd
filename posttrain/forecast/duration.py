"""How long each stage will take: seconds per token, measured on a few passes of the real model, times the tokens of the stage.

A forecast before anything is paid for, not a promise: passes are a little shorter than those of a run, another program may take
the cores, and nobody knows where answers end. So each number comes with the range that these leave open.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from posttrain.checkpoints.load import parameters_of
from posttrain.data.packing import Example
from posttrain.forecast.depth import DEPTHS, shortened
from posttrain.forecast.phases import Arithmetic
from posttrain.models.architectures import auto_class
from posttrain.models.parameters import parameter_count
from posttrain.peft.wrap import wrap
from posttrain.runtime.cpu_products import fast_cpu_products
from posttrain.sampling.sampler import Sampling, sample
from posttrain.scoring.layout_choice import take_first_layout
from posttrain.scoring.scorer import Scorer
from schemas.training import Peft

WHOLE = 2**31  # bytes of weights up to which the real model is measured; of a larger one as many blocks as fit
PASS_TOKENS = 192  # of a measured pass, at least
WARM = 8  # tokens of a part of the example that warms a model up
STEPS = 2  # of decoding that are measured
DECODED = 32  # rows at most that are decoded together to measure
# Times another pass of the same kind took from the measured one on a shared machine of two cores.
RANGE = (0.8, 1.4)


@dataclass(frozen=True)
class Seconds:
    """A time with its range."""

    expected: float
    low: float
    high: float

    @classmethod
    def around(cls, seconds: float) -> Seconds:
        """With the range of a measured pass."""
        return cls(seconds, *(bound * seconds for bound in RANGE))

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.expected + other.expected, self.low + other.low, self.high + other.high)

    def rounded(self) -> dict[str, float]:
        """As `posttrain check` shows it."""
        return {name: float(f"{value:.2g}") if value < 100 else round(value) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Rates:
    """What one model needs on one device, in seconds."""

    score: float
    """A token of a pass without gradients."""
    step: float
    """A token of one response, where a batch of them is decoded."""
    train: dict[Peft, float]
    """A token of a forward and backward pass, by what is trained."""


def measured_rates(
    load: Callable[[], Any],
    config: PreTrainedConfig,
    pefts: Mapping[Peft, tuple[int, ...]],
    examples: Sequence[Example],
    rows: int,
    on: Arithmetic,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Rates:
    """Measure a model.

    Args:
        load: returns the model in fp32 on the device.
        config: its config.
        pefts: what the stages train, with the new tokens whose embeddings are to be trained as well.
        examples: rows of the data, of which some of the usual length are taken.
        rows: responses that are sampled together.
        on: where and in what arithmetic.
        tokenizer: of the model, for prompt tuning from a text.
    """
    fast_cpu_products()
    model, share = _as_much_as_fits(load, config, on.device)
    few = _usual(examples)
    tokens = sum(example.length for example in few)
    scorer = _scorer(model, few, on)
    with torch.no_grad():
        score = _timed(on, lambda: scorer(few)) / tokens / share
        step = _decoding(scorer, min(rows, DECODED), on) / share
    train = {}
    for number, (peft, new_tokens) in enumerate(pefts.items()):
        if number:  # the method before is in the model
            model, _ = _as_much_as_fits(load, config, on.device)
        trained = _scorer(wrap(model, peft, 0, "peft", tokenizer, new_tokens), few, on)
        train[peft] = _timed(on, functools.partial(_train, trained, few)) / tokens / share
    return Rates(score, step, train)


def _train(scorer: Scorer, examples: Sequence[Example]) -> None:
    """The passes of a step, in either of which nothing is drawn."""
    scorer(examples).per_branch().mean().backward()


def _as_much_as_fits(load: Callable[[], Any], config: PreTrainedConfig, device: torch.device) -> tuple[Any, float]:
    """The model, or one of its shape without numbers that has its first blocks alone; and the share of its weights."""
    whole = parameters_of(config)
    depth = getattr(config, DEPTHS[0], 0)
    if 4 * whole <= WHOLE or depth < 2:
        return load(), 1.0
    with torch.device("meta"):
        model = auto_class(config).from_config(shortened(config, max(1, depth * WHOLE // (4 * whole))), dtype=torch.float32)
    model = model.to_empty(device=device)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.detach().zero_()
    return model, parameter_count(model) / whole


def _usual(examples: Sequence[Example]) -> list[Example]:
    """Examples about as long as most, as many as make a pass."""
    middle = np.argsort([example.length for example in examples], kind="stable")[len(examples) // 2 :]
    usual: list[Example] = [examples[row] for row in middle]
    enough = math.ceil(PASS_TOKENS / usual[0].length)  # the longer half are enough, or are taken again
    return (usual * enough)[:enough]


def _scorer(model: Any, few: Sequence[Example], on: Arithmetic) -> Scorer:
    """In the first layout that the model does not refuse, after a pass that warms it up."""
    scorer = Scorer(model, on.device, on.dtype).eval()
    take_first_layout(scorer, [_start_of(few[0])])
    return scorer


def _start_of(example: Example) -> Example:
    """A short example of the same form: it touches every weight as a long one does."""
    return Example(example.prompt[:WARM], tuple(branch[:WARM] for branch in example.branches))


def _decoding(scorer: Scorer, rows: int, on: Arithmetic) -> float:
    """Seconds per row and token: what the later steps of a batch take."""
    prompts = [np.full(4, row % 2, np.int32) for row in range(rows)]

    def decode(new: int) -> float:
        plan = Sampling(max_new_tokens=new, temperature=1.0, seed=0, ends=(), pad=0)
        with scorer.arithmetic() if on.device.type == "cuda" else contextlib.nullcontext():  # as in evaluation
            return _timed(on, lambda: sample(scorer.model, prompts, plan))

    first = decode(1)
    return max(decode(1 + STEPS) - first, 0.1 * first) / STEPS / rows


def _timed(on: Arithmetic, work: Callable[[], Any]) -> float:
    _wait(on)
    started = time.perf_counter()
    work()
    _wait(on)
    return time.perf_counter() - started


def _wait(on: Arithmetic) -> None:
    if on.device.type == "cuda":
        torch.cuda.synchronize(on.device)
