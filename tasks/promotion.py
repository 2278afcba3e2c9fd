"""What `registry.promote_on` means: the number that decides, the threshold for its interval, and the sentence that says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from schemas.estimates import Estimate
from schemas.results import Metrics

Show = Callable[[float], str]


@dataclass(frozen=True)
class Bar:
    """What a number must pass: the lower end of the interval, or the number where it has none, must lie above."""

    metric: str
    """Of the run's numbers; a comparison with the champion is measured when it is due."""
    threshold: float
    said: str
    """What the number means, after "version 3"; names `{value}` and `{opponent}`."""
    show: Show


@dataclass(frozen=True)
class Rule:
    """How a metric decides."""

    first: Bar
    """Without a champion: against the policy that the run started from."""
    champion: Bar
    """Against the champion, on the same held-out rows."""


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _number(value: float) -> str:
    return f"{value:.4f}"


def _won(opponent: str) -> Rule:
    bar = Bar(f"win_rate_vs_{opponent}", 0.5, "wins {value} of held-out prompts against {opponent}", _percent)
    return Rule(bar, bar)


RULES = {
    "win_rate_vs_sft": _won("sft"),
    "win_rate_vs_base": _won("base"),
    "preference_accuracy": Rule(
        Bar("preference_accuracy", 0.5, "prefers chosen more than its reference does in {value} of held-out pairs", _percent),
        Bar("", 0.0, "has a preference accuracy {value} above that of {opponent} on the same held-out pairs", _percent),
    ),
    "validation_loss": Rule(
        Bar("validation_loss_falls", 0.0, "has a held-out loss {value} below that at the start of its training", _number),
        Bar("", 0.0, "has a held-out loss {value} below that of {opponent} on the same held-out rows", _number),
    ),
}


def why_not_first(metric: str, version: str, numbers: Metrics) -> str | None:
    """Why a version may not become the first champion by the numbers of its run, or None."""
    bar = RULES[metric].first
    return _why_not(bar, version, bar.metric.removeprefix("win_rate_vs_"), Estimate.of(numbers, bar.metric))


def why_not_champion(metric: str, version: str, opponent: str, measured: Estimate) -> str | None:
    """Why a version may not take the champion's place, given the comparison with it, or None."""
    return _why_not(RULES[metric].champion, version, opponent, measured)


def _why_not(bar: Bar, version: str, opponent: str, measured: Estimate) -> str | None:
    if measured.low > bar.threshold:
        return None
    show, said = bar.show, bar.said.format(value=bar.show(measured.value), opponent=opponent)
    between = f" (95% interval {show(measured.low)} to {show(measured.high)}); the lower end" if measured.interval else "; it"
    threshold = f"{bar.threshold:.0%}" if show is _percent else f"{bar.threshold:g}"
    short = show(bar.threshold - measured.low)
    return f"promotion refused: version {version} {said}{between} must be above {threshold}, it is {short} short"
