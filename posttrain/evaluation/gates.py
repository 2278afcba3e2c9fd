"""Gates: the recipe's limits on what evaluation measured."""

from __future__ import annotations

from schemas.errors import Refusal
from schemas.estimates import Estimate
from schemas.evaluation import Gate, Gates
from schemas.results import GateReport, Metrics


def check_gates(gates: Gates, metrics: Metrics) -> tuple[GateReport, ...]:
    """Every gate of the recipe with its measured value.

    A metric without an interval, as of a single prompt, has no lower bound that could pass.

    Raises:
        Refusal: when a gate's metric was not measured, as when there was no held-out text.
    """
    return tuple(_check(name, gate, metrics) for name, gate in gates.given().items())


def describe(gate: GateReport) -> str:
    """One sentence: what was measured and what was asked."""
    interval = f" (95% interval {gate.interval[0]:.4g} to {gate.interval[1]:.4g})" if gate.interval else ""
    wanted = ", ".join(f"{limit.replace('_', ' ')} {value:g}" for limit, value in gate.limit.items())
    return f"gate {gate.name}: measured {gate.value:.4g}{interval}, asked {wanted}"


def _check(name: str, gate: Gate, metrics: Metrics) -> GateReport:
    if name not in metrics:
        raise Refusal(
            where=f"evaluation.gates.{name}",
            found="a metric that could not be measured",
            allowed="metrics of evaluation",
            remedy="give held-out text",
        )
    measured = Estimate.of(metrics, name)
    held = (
        gate.min is None or measured.value >= gate.min,
        gate.max is None or measured.value <= gate.max,
        gate.lower_bound_above is None or (measured.interval is not None and measured.low > gate.lower_bound_above),
    )
    limit = gate.model_dump(exclude_none=True)
    return GateReport(name=name, value=measured.value, interval=measured.interval, limit=limit, passed=all(held))
