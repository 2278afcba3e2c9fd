"""Benchmarks: tasks of lm-eval that every policy answers, and the limits on the candidate's scores."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Frozen, refused
from schemas.fields import NonNegative, Number, Positive


class BenchmarkGate(Frozen):
    """Limits on the candidate's score, and on how far it may fall behind another policy on the same documents."""

    min: Annotated[float, Number] | None = None
    """Smallest allowed score of the candidate."""
    max: Annotated[float, Number] | None = None
    """Largest allowed score of the candidate, for a metric whose lower values are the better ones."""
    against: Literal["base", "sft"] | None = None
    """The policy that `max_drop` and `lower_bound_above` compare with; null: the one before the candidate."""
    max_drop: NonNegative | None = None
    """How much worse the candidate may be: in the metric's unit, or for a perplexity in nats per unit."""
    lower_bound_above: Annotated[float, Number] | None = None
    """The lower end of the 95% interval of the paired difference must lie above this: -0.02 proves a drop of less than 0.02."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> BenchmarkGate:
        limits = self.model_dump(exclude={"against"}, exclude_none=True)
        if not limits:
            raise refused(
                where=".gate",
                found="no limit",
                allowed="at least one of min, max, max_drop, lower_bound_above",
                remedy="add one, or remove the gate",
            )
        if self.min is not None and self.max is not None and self.min > self.max:
            raise refused(
                where=".gate.min", found=f"{self.min:g} above max {self.max:g}", allowed="at most max", remedy="exchange them"
            )
        return self

    @property
    def compares(self) -> bool:
        """Whether it asks for a difference."""
        return self.max_drop is not None or self.lower_bound_above is not None


class Benchmark(Frozen):
    """One task of lm-eval (extra `benchmarks`), answered by every policy of the run on the same documents."""

    # Lengths are no part of the patterns: `\w{0,99}` has a hundred copies of Unicode's letters, which take 25 ms to compile, once
    # in each contract that has a recipe in it.
    task: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=100)]
    """Name of a task or group, from lm-eval's catalogue or from `folder`."""
    folder: Annotated[str, Field(min_length=1)] | None = None
    """Folder with YAML files of your own tasks, whose data lie in it; needs no network."""
    shots: Annotated[int, Field(ge=0, le=100), Number] | None = None
    """Examples before each question; null: as the task says, else none."""
    limit: Positive | None = None
    """Documents of each task that are asked, chosen by the seed; null: all."""
    metric: Annotated[str, Field(pattern=r"^[\w+.-]+(,[\w+.-]+)?$", max_length=121)] | None = None
    """Metric of the task, with the name of a filter after a comma where it has several; null: the task's first."""
    chat: bool = False
    """Put questions as a conversation, through the policy's chat template."""
    allow_code: bool = False
    """Let the task run Python: functions beside its YAML, and tasks that are marked as unsafe."""
    gate: BenchmarkGate | None = None
    """Limits before the registry; null: it is measured alone."""


_OF_SHARES = ("acc", "acc_norm", "exact_match", "acc_mutual_info", "acc_bytes", "acc_all")


def refuse_impossible(benchmark: Benchmark, where: str) -> None:
    """Refuse limits that a metric known by its name can never keep, or never miss.

    Raises:
        PydanticCustomError: for validators, of the kind `refused`.
    """
    name = (benchmark.metric or "").partition(",")[0]
    if benchmark.gate is None or name not in _OF_SHARES:
        return
    ranges = {"min": (0.0, 1.0), "max": (0.0, 1.0), "max_drop": (0.0, 1.0), "lower_bound_above": (-1.0, 1.0)}
    for limit, (low, high) in ranges.items():
        value = getattr(benchmark.gate, limit)
        if value is not None and not low <= value <= (math.nextafter(high, low) if limit == "lower_bound_above" else high):
            raise refused(
                where=f"{where}.gate.{limit}",
                found=f"{value:g}",
                allowed=f"a number from {low:g} to {high:g}: {name} has no other values",
                remedy="choose a limit that a model can keep to and miss",
            )
