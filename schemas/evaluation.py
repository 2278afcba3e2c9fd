"""Held-out evaluation, the gates in front of the registry, and the registered model."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.base import Frozen, refused
from schemas.benchmarks import Benchmark, refuse_impossible
from schemas.fields import Limits, Number, Positive, Temperature
from schemas.judge import Judge


class Gate(Limits):
    """Limits on one metric; all that are given must hold."""

    lower_bound_above: Annotated[float, Number] | None = None
    """The lower end of the 95% interval must lie above this."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Gate:
        if not self.model_dump(exclude_none=True):
            raise PydanticCustomError("gate", "at least one of min, max, lower_bound_above")
        return self


_SHARE, _NOT_NEGATIVE, _ANY = (0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)
_RANGES = {
    "win_rate_vs_sft": _SHARE,
    "win_rate_vs_base": _SHARE,
    "length_controlled_win_rate_vs_sft": _SHARE,
    "length_controlled_win_rate_vs_base": _SHARE,
    "worst_source_win_rate_vs_sft": _SHARE,
    "worst_source_win_rate_vs_base": _SHARE,
    "length_ratio_vs_sft": _NOT_NEGATIVE,
    "length_ratio_vs_base": _NOT_NEGATIVE,
    "mean_reward": _ANY,
    "eos_share": _SHARE,
    "distinct_2": _SHARE,
    "preference_accuracy": _SHARE,
    "preference_accuracy_length_controlled": _SHARE,
    "feedback_auc": _SHARE,
    "calibration_error": _SHARE,
    "drift_sources": _SHARE,
    "drift_lengths": _SHARE,
    "drift_languages": _SHARE,
    "judge_agreement": _SHARE,
    "judge_consistency": _SHARE,
    "perplexity_ratio_vs_base": _NOT_NEGATIVE,
    "kl_per_token": _NOT_NEGATIVE,  # an estimate may fall below 0, and then only by chance
    "validation_loss_falls": _ANY,
}
"""The values that a gate's metric can take."""


class Gates(Frozen):
    """Limits that a candidate must keep to reach the registry."""

    win_rate_vs_sft: Gate | None = None
    """Share of held-out prompts on which the candidate's reward beats its SFT parent's; ties count half."""
    win_rate_vs_base: Gate | None = None
    """The same against the model before SFT."""
    length_controlled_win_rate_vs_sft: Gate | None = None
    """The win rate that answers as long as the SFT parent's would have (arXiv 2404.04475)."""
    length_controlled_win_rate_vs_base: Gate | None = None
    """The same against the model before SFT."""
    worst_source_win_rate_vs_sft: Gate | None = None
    """The lowest win rate over the sources of the prompts; sources with fewer than 8 judged prompts count together."""
    worst_source_win_rate_vs_base: Gate | None = None
    """The same against the model before SFT."""
    length_ratio_vs_sft: Gate | None = None
    """Tokens of the candidate's answers for each token of its SFT parent's."""
    length_ratio_vs_base: Gate | None = None
    """The same against the model before SFT."""
    mean_reward: Gate | None = None
    """Mean reward of the candidate's answers by the judge; of one that gives 0 or 1, such as a verifier, the accuracy."""
    eos_share: Gate | None = None
    """Share of the candidate's answers that end before `max_new_tokens`."""
    distinct_2: Gate | None = None
    """Different pairs of neighbouring words for each such pair in the candidate's answers (distinct-2, arXiv 1510.03055)."""
    preference_accuracy: Gate | None = None
    """Share of held-out pairs whose implicit reward is higher for the chosen response."""
    preference_accuracy_length_controlled: Gate | None = None
    """The same share if both responses were equally long."""
    feedback_auc: Gate | None = None
    """P(a desirable held-out answer has a higher implicit reward than an undesirable one), of data.feedback."""
    calibration_error: Gate | None = None
    """Expected calibration error of the implicit rewards on held-out pairs: how far their confidence is from their accuracy."""
    drift_sources: Gate | None = None
    """Share of training rows whose source would have to be another for the champion's shares by source; without a champion this
    gate and the next two do not apply."""
    drift_lengths: Gate | None = None
    """The same for the lengths of rows, in words by powers of two."""
    drift_languages: Gate | None = None
    """The same for the languages of rows. Needs the extra `text`."""
    judge_agreement: Gate | None = None
    """Share of held-out pairs on which the judge prefers the response that people chose; ties count half."""
    judge_consistency: Gate | None = None
    """Share of comparisons in which a language model as judge names the same winner in both orders."""
    perplexity_ratio_vs_base: Gate | None = None
    """Perplexity of held-out text, divided by the base model's."""
    kl_per_token: Gate | None = None
    """KL(policy || reference) per token on the policy's own samples, in nats."""
    validation_loss_falls: Gate | None = None
    """Held-out loss of the last training stage before its first step, less that of its result; `{min: 0}`: it did not rise."""

    @model_validator(mode="after")
    def _limits_lie_in_the_metrics_range(self) -> Gates:
        for name, gate in self.given().items():
            low, high = _RANGES[name]
            for limit, value in gate.model_dump(exclude_none=True).items():
                strict = limit == "lower_bound_above"  # nothing lies above the highest value
                if not low <= value <= high or (strict and value == high):
                    allowed = f"a number from {low:g} {'to below' if strict else 'to'} {high:g}"
                    raise refused(
                        where=f"evaluation.gates.{name}.{limit}",
                        found=f"{value:g}",
                        allowed=f"{allowed}: the metric has no other values",
                        remedy="choose a limit that a model can keep to and miss",
                    )
        return self

    def given(self) -> dict[str, Gate]:
        """Gates that this recipe sets, by metric."""
        return {name: gate for name in type(self).model_fields if (gate := getattr(self, name)) is not None}


class Evaluation(Frozen):
    """Candidate against its ancestors on held-out prompts, with the same prompts and seeds."""

    prompts: Annotated[int, Field(ge=8)] = 256
    """Held-out prompts to sample responses for."""
    samples: Positive = 1
    """Responses sampled to each prompt. More of them narrow the intervals, where there are few held-out prompts."""
    max_new_tokens: Positive = 48
    """Longest sampled response in tokens."""
    max_length: Annotated[int, Field(ge=8)] | None = None
    """Longest held-out row in tokens, prompt and answer: prompts are cut from the left, rows whose answer does not fit left out;
    null: the positions that the policies were made for."""
    temperature: Temperature = 1.0
    """Sampling temperature; `kl_per_token` is the divergence of the policies at it."""
    judge: Judge | None = None
    """Who scores responses; null: no one, so that rewards and win rates are not measured."""
    gates: Gates = Gates()
    """Limits before the registry."""
    benchmarks: tuple[Benchmark, ...] = ()
    """Tasks of lm-eval that every policy answers, in a stage of their own."""

    @model_validator(mode="after")
    def _asks_each_benchmark_once(self) -> Evaluation:
        seen: set[str] = set()
        for index, benchmark in enumerate(self.benchmarks):
            refuse_impossible(benchmark, f"evaluation.benchmarks.{index}")
            if benchmark.task in seen:
                raise refused(
                    where=f"evaluation.benchmarks.{index}.task",
                    found=f"{benchmark.task} a second time",
                    allowed="each task once: its numbers have its name",
                    remedy="remove one of them",
                )
            seen.add(benchmark.task)
        return self

    @model_validator(mode="after")
    def _leaves_room_for_a_prompt(self) -> Evaluation:
        if self.max_length is not None and self.max_new_tokens > self.max_length - 2:
            found, most = f"{self.max_new_tokens} with max_length {self.max_length}", self.max_length - 2
            raise refused(
                where="evaluation.max_new_tokens",
                found=found,
                allowed=f"at most {most}, which leaves room for a prompt",
                remedy="lower it, or raise max_length",
            )
        return self


class Registry(Frozen):
    """The registered model in MLflow."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$")]
    """Name of the registered model."""
    reward_model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$")] | None = None
    """Registered name of the stage reward's model, whose `champion` is the most accurate one on held-out pairs; null: none."""
    promote_on: Literal["win_rate_vs_sft", "win_rate_vs_base", "preference_accuracy", "validation_loss"] | None = None
    """What decides: a champion must be beaten in it head to head on the same held-out rows; null: passing the gates is enough."""
    hub: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}$")] | None = None
    """Repository of the Hugging Face hub that gets a version when it becomes champion, private where it is new; the token is
    `HF_TOKEN` of the environment. Null: nothing leaves."""
    export: tuple[Literal["gguf", "awq", "fp8"], ...] = ()
    """Other forms of the checkpoint that are registered with it: `gguf`, a Llama as one file in fp32 (extra `gguf`)."""

    @model_validator(mode="after")
    def _exports_what_is_built(self) -> Registry:
        for kind in ("awq", "fp8"):
            if kind in self.export:
                raise refused(
                    where="registry.export",
                    found=f"{kind}, which is not built: it rounds weights by samples of activations, and nothing here proves it",
                    allowed="gguf",
                    remedy=f"remove {kind}, and quantise the registered checkpoint with llm-compressor",
                )
        return self
