"""The checks of a data set as a recipe wants them: the contract's own, those that take a function, and their severities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from posttrain.data.across import Across
from posttrain.data.checks.contamination import contaminated
from posttrain.data.checks.near_prompts import NearPrompts
from posttrain.data.checks.personal import PARTS, personal
from posttrain.data.checks.wording import languages_wrong, scripts_differ
from posttrain.data.contract import RowCheck, Severity, mismatch
from posttrain.data.kinds import Kind
from posttrain.text import language, personal_data
from posttrain.text.overlap import EvaluationIndex
from schemas.checks import Adjustable, Checks
from schemas.messages import SEVERAL_TURNS

DEFAULTS: Final[dict[Adjustable, Severity]] = {"near_prompt": "drop", "script": "warn"}
"""Of the checks here, where the recipe says nothing; the others are off then."""


def checks_of(kind: Kind, limits: Checks, index: EvaluationIndex | None = None) -> tuple[RowCheck, ...]:
    """The checks of a kind of data set, without those that are off.

    Args:
        kind: the data set.
        limits: thresholds of the recipe.
        index: the evaluation sets of `limits.decontaminate`.

    Raises:
        Refusal: when a check is asked for whose extra is not installed.
    """
    return tuple(_adjusted(check, limits) for check in (*kind.checks, *_by_function(limits, index)) if _is_on(check, limits))


def across_of(kind: Kind, limits: Checks, folder: Path) -> list[Across]:
    """What finds the hits of those checks that need all rows; `folder` is for what waits."""
    near = [NearPrompts(limits.near_prompt, folder)] if limits.severity.get("near_prompt") != "off" else []
    return [*(each() for each in kind.across), *near]


def _by_function(limits: Checks, index: EvaluationIndex | None) -> list[RowCheck]:
    asked = limits.severity
    found = [RowCheck("near_prompt", DEFAULTS["near_prompt"])]
    found.append(RowCheck("script", DEFAULTS["script"], find=_on_parts(scripts_differ)))
    if limits.languages or asked.get("language", "off") != "off":
        language.require("data.checks.languages")
        found.append(RowCheck("language", "warn", find=_on_parts(lambda parts: languages_wrong(parts, limits.languages))))
    if asked.get("personal", "off") != "off":
        personal_data.require("data.checks.personal", limits.personal)
        found.append(RowCheck("personal", "warn", find=_on_parts(lambda parts: personal(parts, limits.personal))))
    if index is not None:
        found.append(RowCheck("contaminated", "drop", find=_on_parts(lambda parts: contaminated(parts, index))))
    return found


def _on_parts(find: Callable[[Sequence[pl.Series]], NDArray[np.bool_]]) -> Callable[[pl.DataFrame], NDArray[np.bool_]]:
    """A function of the texts of a row's prompt and answers."""
    return lambda wide: find([wide[f"{part}_text"] for part in PARTS if f"{part}_text" in wide.columns])


def _is_on(check: RowCheck, limits: Checks) -> bool:
    return _asked(check, limits) != "off"


def _adjusted(check: RowCheck, limits: Checks) -> RowCheck:
    if check.name == "prompt_mismatch" and limits.several_turns:
        return replace(check, hit=mismatch(SEVERAL_TURNS))
    asked = _asked(check, limits)
    return check if asked is None or asked == "off" else replace(check, severity=asked)


def _asked(check: RowCheck, limits: Checks) -> Literal["off", "warn", "drop"] | None:
    """What the recipe says of a check."""
    return {str(name): value for name, value in limits.severity.items()}.get(check.kind)
