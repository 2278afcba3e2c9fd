"""A sweep: lines of runs that differ in one field each, what `posttrain sweep` prints, and how its file is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from schemas.base import Frozen, refused
from schemas.errors import Refusal
from schemas.estimates import Estimate
from schemas.load import read_yaml, set_field, validate_recipe, validated
from schemas.recipe import Recipe
from schemas.results import RunReport

RUNS = 1000  # of one sweep
Dotted = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$", max_length=200)]


class Over(Frozen):
    """The field that a line varies."""

    field: Dotted
    """Dotted field of the recipe: `alignment.beta`."""
    values: Annotated[tuple[Any, ...], Field(min_length=1, max_length=RUNS)]
    """Its values, one run each, in the order of the line."""

    @field_validator("values")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        for index, value in enumerate(values):
            if value in values[:index]:
                raise refused(
                    where="over.values", found=f"{value!r} twice", allowed="values that differ", remedy="remove one of them"
                )
        return values


class Line(Frozen):
    """Runs of one recipe that differ in one field."""

    label: Annotated[str, Field(min_length=1, max_length=40)]
    """Name of the line in tables and pictures."""
    recipe: Annotated[str, Field(min_length=1)]
    """The recipe's file, relative to the sweep's."""
    set: dict[Dotted, Any] = Field(default_factory=dict)
    """Dotted fields of the recipe that all runs of the line change."""
    over: Over
    """What the runs differ in."""

    @field_validator("over")
    @classmethod
    def _sets_nothing_that_it_varies(cls, over: Over, info: ValidationInfo) -> Over:
        for name in info.data.get("set", {}):
            if f"{name}.".startswith(f"{over.field}."):
                raise refused(
                    where="over.field",
                    found=f"{over.field}, and set gives {name}",
                    allowed="another field",
                    remedy="remove it from set",
                )
        return over


class Sweep(Frozen):
    """Lines of runs on one store, drawn in one picture."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    """Name of the sweep: letters, digits, dot, dash, underscore."""
    lines: Annotated[tuple[Line, ...], Field(min_length=1, max_length=RUNS)]
    """What is compared."""

    @field_validator("lines")
    @classmethod
    def _labels_differ(cls, lines: tuple[Line, ...]) -> tuple[Line, ...]:
        labels = [line.label for line in lines]
        for label in labels:
            if labels.count(label) > 1:
                raise refused(
                    where="lines",
                    found=f"the label {label!r} twice",
                    allowed="a label of its own for each line",
                    remedy="rename one of them",
                )
        return lines

    @field_validator("lines")
    @classmethod
    def _few_enough(cls, lines: tuple[Line, ...]) -> tuple[Line, ...]:
        if (runs := sum(len(line.over.values) for line in lines)) > RUNS:
            raise refused(
                where="lines", found=f"{runs:,} runs", allowed=f"at most {RUNS:,}", remedy="split it into several sweeps"
            )
        return lines


class SweepPoint(Frozen):
    """One run of a sweep."""

    line: str
    """Label of its line."""
    field: str
    """The field that the line varies."""
    value: Any
    """That field's value."""
    kl_per_token: Estimate
    """KL(policy || reference) per token of the policy's own responses, in nats."""
    reward: Estimate
    """Mean reward of the responses under the recipe's judge."""
    win_rate: Estimate
    """Share of held-out prompts won against `opponent`; ties count half."""
    opponent: str
    """The policy before alignment: `sft`, or `base` in a recipe without SFT."""
    trained_parameters: int
    """How many numbers alignment trained."""
    run: RunReport
    """The run."""

    @property
    def built(self) -> str:
        """What the run built and did not take from the store: `all`, `nothing`, or the names of stages."""
        names = [stage.name for stage in self.run.stages if not stage.reused]
        return "all" if len(names) == len(self.run.stages) else ", ".join(names) or "nothing"


class Ancestor(Frozen):
    """A policy from before alignment, which several runs share."""

    name: str
    """`base` or `sft`; with the label of its line where lines do not share it."""
    reward: Estimate
    """Mean reward of its responses."""
    is_reference: bool
    """Whether divergence is measured from it, so that its own is 0; the divergence of others is not measured."""


class SweepReport(Frozen):
    """What `posttrain sweep --json` prints."""

    name: str
    """Name of the sweep."""
    seconds: float
    """Wall time."""
    points: tuple[SweepPoint, ...]
    """Line by line, in the order of the values."""
    ancestors: tuple[Ancestor, ...]
    """What the points came from."""
    report: Path
    """Path of `sweep.html`."""


@dataclass(frozen=True)
class Planned:
    """A run that a sweep asks for."""

    line: Line
    value: Any
    recipe: Recipe


def load_sweep(path: Path) -> tuple[Sweep, list[Planned]]:
    """Read a sweep and every recipe that it asks for.

    Raises:
        Refusal: for the first mistake in the sweep, in a recipe, or in what the sweep makes of it; says which line and value.
    """
    sweep = validated(Sweep, read_yaml(path, "sweep"), str(path))
    return sweep, [Planned(line, value, _recipe(path, line, value)) for line in sweep.lines for value in line.over.values]


def _recipe(path: Path, line: Line, value: Any) -> Recipe:
    """A point's recipe: nothing of a sweep is registered, so that no gate stops it."""
    source = path.parent / line.recipe
    try:
        document, fields = read_yaml(source, "recipe"), {**line.set, line.over.field: value}
        for dotted, given in fields.items():
            set_field(document, dotted, given, dotted, fields.keys())
        recipe = validate_recipe({**document, "registry": None}, str(source))
        if recipe.alignment.algorithm == "none":
            raise Refusal(
                where="alignment",
                found="none",
                allowed="an algorithm",
                remedy="a frontier needs a policy that moved from its reference",
            )
        judge = recipe.evaluation.judge
        if judge is None or getattr(judge, "mode", None) == "pairwise":
            raise Refusal(
                where="evaluation.judge",
                found="null" if judge is None else "an endpoint that compares two answers",
                allowed="a function, a reward model, or an endpoint with mode pointwise",
                remedy="a frontier draws rewards: name who gives them",
            )
    except Refusal as refusal:
        where = f"line {line.label!r} with {line.over.field}={value}: {refusal.where}"
        raise Refusal(where=where, found=refusal.found, allowed=refusal.allowed, remedy=refusal.remedy) from None
    return recipe
