"""How long the stages of a recipe that compute on the model will take: tokens counted here, seconds per token measured.

The functions at the end count the tokens that pass the model in a stage; `WORK` of `posttrain/pipeline/stages.py` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Literal

import numpy as np
import torch

from posttrain.checkpoints.load import load_model, parameters_of
from posttrain.data.packing import Example
from posttrain.forecast.duration import Rates, Seconds, measured_rates
from posttrain.forecast.phases import Arithmetic
from posttrain.forecast.sizing import config_of, held_out_limit, prompts_section
from posttrain.losses.preference import VARIANTS
from posttrain.models.architectures import auto_class
from posttrain.models.policy import source_policy
from posttrain.pipeline.chain import Chain
from posttrain.pipeline.lengths import FirstRows
from posttrain.pipeline.stages import WORK
from posttrain.runtime.device import resolve_device, resolve_dtype
from posttrain.sampling.sampler import BATCH
from posttrain.training.fit import VALIDATION_EXAMPLES
from posttrain.training.validation import MOST, validations_of
from schemas.model import ScratchModel
from schemas.ppo import PPO
from schemas.recipe import Recipe, policies
from schemas.training import DPO, SFT, Full, Optimization, Peft, Pretrain

# Seconds on two cores: what a stage takes beside its passes (start-up check, encoding, saving), and what the registry takes: two
# processes that import torch, and for each 10⁹ bytes of weights the exported folders and their digests.
BESIDE = 4.0
REGISTER, REGISTER_PER_GB = 15.0, 20.0


@dataclass(frozen=True)
class Passed:
    """Tokens that go through the model in one stage."""

    scored: float = 0.0
    """Without gradients."""
    trained: float = 0.0
    """Forward and backward."""
    sampled: float = 0.0
    """Drawn, where no answer ends early."""

    def seconds(self, rates: Rates, peft: Peft | None) -> Seconds:
        """With the range of the rates; answers may end after a quarter of their longest length."""
        train = rates.train[peft] * self.trained if peft is not None else 0.0
        drawn = rates.step * self.sampled
        rest = Seconds.around(BESIDE + rates.score * self.scored + train)
        return rest + Seconds(0.75 * drawn, 0.25 * drawn, Seconds.around(drawn).high)


def times_of(chain: Chain, rows: FirstRows, counts: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Seconds by stage that computes on the policy, and of these in all: expected, low and high.

    Args:
        chain: of the recipe.
        rows: the first rows of its data.
        counts: of the data contract, where it was read.
    """
    recipe, config = chain.recipe, config_of(chain.model)
    beside = {"reward"} if recipe.reward and recipe.reward.model else set()  # another model, of which nothing is measured
    counted = {stage: WORK[stage].tokens for stage in recipe.stages if stage not in beside}
    stages = {stage: resolve_name(tokens) for stage, tokens in counted.items() if tokens}
    pefts = {stage: _peft(recipe, stage) for stage in stages}
    on = Arithmetic(resolve_device(recipe.compute), resolve_dtype(recipe.compute))
    data = Data(recipe, rows, counts, bool(config.is_encoder_decoder), held_out_limit(recipe, config))
    examples, _ = rows.examples(prompts_section(recipe), data.two_parts)
    drawn = recipe.evaluation.prompts * recipe.evaluation.samples
    trained = {peft: chain.new_tokens(stage) for stage, peft in pefts.items() if peft is not None}
    rates = measured_rates(_loader(chain, on.device), config, trained, examples, min(BATCH, drawn), on, rows.tokenizer)
    found = {stage: work(data).seconds(rates, pefts[stage]) for stage, work in stages.items()}
    if "benchmark" in recipe.stages and recipe.placement == "inline":  # else the tasks are on another machine
        from posttrain.forecast.benchmarks import benchmark_tokens

        scored, sampled = benchmark_tokens(recipe, rows.tokenizer)
        found["benchmark"] = Passed(scored, sampled=sampled).seconds(rates, None)
    if "register" in recipe.stages:
        found["register"] = Seconds.around(REGISTER + REGISTER_PER_GB * 4 * parameters_of(config) / 1e9)
    total = sum(found.values(), Seconds(0, 0, 0))
    return {stage: each.rounded() for stage, each in {**found, "total": total}.items()}


def _loader(chain: Chain, device: torch.device) -> Callable[[], Any]:
    """Loads the recipe's model; one from scratch has numbers of no meaning."""
    model = chain.model
    if isinstance(model, ScratchModel):
        config = config_of(model)
        return lambda: auto_class(config).from_config(config).to(device)
    return lambda: load_model(source_policy(model), device)


def _peft(recipe: Recipe, stage: str) -> Peft | None:
    """What a stage trains."""
    section = recipe.section(stage)
    return getattr(section, "peft", Full(method="full")) if isinstance(section, Optimization) else None


@dataclass(frozen=True)
class Data:
    """Rows and lengths of a recipe's data."""

    recipe: Recipe
    rows: FirstRows
    counts: Mapping[str, float]
    two_parts: bool
    limit: int
    """Tokens of a held-out row that evaluation reads."""

    def number(self, table: str, split: Literal["train", "holdout"]) -> float:
        """Rows of a split."""
        return self.rows.number(table, split, self.counts)

    def mean(self, section: Any, part: Callable[[Example], float] = lambda example: example.length) -> float:
        """Mean tokens of a section's rows, or of a part of each."""
        examples: Sequence[Example] = self.rows.examples(section, self.two_parts)[0]
        return float(np.mean([part(example) for example in examples]))

    def fitted(self, section: Any, table: str) -> Passed:
        """Passes over the training rows of a table, and over some held-out ones at each validation."""
        length = self.mean(section)
        held_out = min(VALIDATION_EXAMPLES, self.number(table, "holdout"))
        trained = section.epochs * self.number(table, "train")
        return Passed(validations_of(section, trained, held_out) * held_out * length, trained * length)


def pretrain(data: Data) -> Passed:
    """The tokens of the recipe, and some held-out pieces at each validation."""
    spec = data.recipe.pretrain
    assert isinstance(spec, Pretrain)
    length = data.mean(spec)
    return Passed(validations_of(spec, spec.tokens / length, VALIDATION_EXAMPLES) * VALIDATION_EXAMPLES * length, spec.tokens)


def sft(data: Data) -> Passed:
    """Every conversation in every epoch."""
    assert isinstance(data.recipe.sft, SFT)
    return data.fitted(data.recipe.sft, "instructions")


def reward(data: Data) -> Passed:
    """All pairs are scored at the end, for the mean and the accuracy."""
    fitted = data.fitted(data.recipe.reward, "preferences")
    pairs = data.number("preferences", "train") + data.number("preferences", "holdout")
    return Passed(fitted.scored + pairs * data.mean(data.recipe.reward), fitted.trained)


def align(data: Data) -> Passed:
    """Every pair in every epoch, and once under the reference; or the rollouts of PPO."""
    spec = data.recipe.alignment
    if isinstance(spec, PPO):
        return _ppo(data, spec)
    assert isinstance(spec, DPO)
    if spec.unpaired:
        return _kto(data, spec)
    fitted, length = data.fitted(spec, "preferences"), data.mean(spec)
    pairs = data.number("preferences", "train") + min(VALIDATION_EXAMPLES, data.number("preferences", "holdout"))
    return Passed(fitted.scored + (pairs * length if VARIANTS[spec.loss].reference else 0.0), fitted.trained)


def _kto(data: Data, spec: DPO) -> Passed:
    """Every answer in every epoch, and an answer to another prompt with it, both once under the reference as well."""
    table, length = str(data.recipe.dataset("align")), data.mean(spec)
    sides = 1 if table == "feedback" else 2
    train, held_out = (sides * data.number(table, split) for split in ("train", "holdout"))
    held_out = min(VALIDATION_EXAMPLES, held_out)
    reference = train + held_out + spec.epochs * train + held_out
    elsewhere = spec.epochs * train + 2 * validations_of(spec, spec.epochs * train, held_out) * held_out
    return Passed((reference + elsewhere) * length, spec.epochs * train * length)


def _ppo(data: Data, spec: PPO) -> Passed:
    """A round encodes prompts, draws answers, scores them by policy, reference and reward, and trains on them some times.

    Held-out prompts are answered now and then; `dynamic_sampling` may draw more than is counted here.
    """
    prompt = data.mean(prompts_section(data.recipe), lambda example: len(example.prompt))
    held_out = min(spec.held_out_prompts, data.number(data.recipe.prompts_table, "holdout"))
    asked = (1 + min(spec.validations or MOST, spec.iterations)) * held_out
    drawn = (spec.iterations * spec.rollouts + asked) * spec.max_new_tokens
    length = spec.iterations * spec.rollouts * (prompt / spec.samples + spec.max_new_tokens)
    critic = 2 if spec.advantage == "gae" and spec.value_model == "adapter" else 1
    prompts = (spec.iterations * spec.rollouts / spec.samples + asked) * prompt
    scored = (3 if spec.kl_place else 2) * length + asked * (prompt + spec.max_new_tokens)
    return Passed(prompts + scored, critic * spec.epochs * length, drawn)


def evaluate(data: Data) -> Passed:
    """Every policy answers the prompts and scores the held-out rows; the last two score the candidate's answers as well."""
    spec, section = data.recipe.evaluation, prompts_section(data.recipe)
    table = data.recipe.prompts_table
    prompts = min(spec.prompts, max(1.0, data.number(table, "holdout")))
    examples = data.rows.held_out(section, data.limit, data.two_parts)[0]
    prompt = float(np.mean([min(len(example.prompt), data.limit - spec.max_new_tokens) for example in examples]))
    length = float(np.mean([example.length for example in examples]))
    rows = sum(data.number(name, "holdout") for name in ("instructions", "preferences", "feedback")) * length
    answers = prompts * spec.samples * (prompt + spec.max_new_tokens)
    number = len(policies(data.recipe))
    return Passed(number * (prompts * prompt + rows) + 2 * answers, sampled=number * prompts * spec.samples * spec.max_new_tokens)
