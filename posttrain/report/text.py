"""How the report writes numbers, times, limits and addresses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

ABSENT = "–"  # noqa: RUF001 - an en dash is what a table shows for "none"
_LIMITS = {"min": "≥ {}", "max": "≤ {}", "lower_bound_above": "interval above {}", "max_drop": "a drop of at most {}"}


def number(value: float | None) -> str:
    """Four significant digits, thousands separated; whole numbers in full."""
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 0.001 else f"{value:.2e}"


def share(value: float | None) -> str:
    """A share of 1 as a percentage."""
    return ABSENT if value is None else f"{number(round(100 * value, 2))}%"


def duration(seconds: float | None) -> str:
    """Seconds as `0.42 s`, `12.3 s`, `1 min 20 s` or `2 h 5 min`."""
    if seconds is None:
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def interval(bounds: Sequence[float] | None) -> str:
    """A 95% interval as `0.61 to 0.74`."""
    return ABSENT if bounds is None else f"{number(bounds[0])} to {number(bounds[1])}"


def limits(limit: Mapping[str, float]) -> str:
    """The limits of a gate in words."""
    return ", ".join(_LIMITS.get(name, name + " {}").format(number(value)) for name, value in limit.items())
