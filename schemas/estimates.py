"""A measured number with its interval, and its form among the flat numbers of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ENDS = ("low", "high")


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval."""

    value: float
    interval: tuple[float, float] | None = None
    """Lower and upper end; None where the number has none, as that of a single prompt."""

    @property
    def low(self) -> float:
        """Lower end of the interval, or the value where there is none."""
        return self.value if self.interval is None else self.interval[0]

    @property
    def high(self) -> float:
        """Upper end of the interval, or the value where there is none."""
        return self.value if self.interval is None else self.interval[1]

    def flat(self, name: str) -> dict[str, float]:
        """As result.json and MLflow keep it: `name`, and `name_low` and `name_high` where there is an interval."""
        ends = {} if self.interval is None else {f"{name}_{end}": bound for end, bound in zip(ENDS, self.interval, strict=True)}
        return {name: self.value, **ends}

    @classmethod
    def of(cls, numbers: Mapping[str, float], name: str) -> Estimate:
        """The opposite of `flat`.

        Raises:
            KeyError: where there is no such number.
        """
        low, high = (numbers.get(f"{name}_{end}") for end in ENDS)
        return cls(numbers[name], None if low is None or high is None else (low, high))


def flattened(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """All of these by name, each as `Estimate.flat` writes it."""
    return {key: number for name, estimate in estimates.items() for key, number in estimate.flat(name).items()}
