"""Gates: the recipe's limits on what evaluation measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from schemas.benchmarks import Benchmark
from schemas.errors import Refusal
from schemas.estimates import Estimate
from schemas.evaluation import Gate, Gates
from schemas.recipe import Recipe, policies
from schemas.recipe_rules import DRIFT
from schemas.results import GateReport, Metrics


def gates_of(recipe: Recipe, metrics: Metrics) -> tuple[GateReport, ...]:
    """Every gate of the recipe with its measured value, those of benchmarks last.

    Raises:
        Refusal: as `check_gates`.
    """
    *others, candidate = policies(recipe)
    of_benchmarks = (
        report for each in recipe.evaluation.benchmarks for report in _of_benchmark(each, candidate, others, metrics)
    )
    return (*check_gates(recipe.evaluation.gates, metrics), *of_benchmarks)


def check_gates(gates: Gates, metrics: Metrics) -> tuple[GateReport, ...]:
    """Gates with their measured values.

    A metric without an interval, as of a single prompt, has no lower bound that could pass. A gate on drift is left out where no
    champion told what its data are like.

    Raises:
        Refusal: when a gate's metric was not measured, as when there was no held-out text.
    """
    given = {name: gate for name, gate in gates.given().items() if name not in DRIFT or name in metrics}
    return tuple(_check(name, gate, metrics) for name, gate in given.items())


def _of_benchmark(benchmark: Benchmark, candidate: str, others: Sequence[str], metrics: Metrics) -> Iterator[GateReport]:
    """The gate on the candidate's score, and the one on its difference to another policy on the same documents."""
    gate, name = benchmark.gate, f"benchmark_{benchmark.task}"
    if gate is None:
        return
    if gate.min is not None or gate.max is not None:
        yield _check(f"{name}_{candidate}", Gate(min=gate.min, max=gate.max), metrics)
    if gate.compares:
        least = None if gate.max_drop is None else -gate.max_drop
        report = _check(
            f"{name}_vs_{gate.against or others[-1]}", Gate(min=least, lower_bound_above=gate.lower_bound_above), metrics
        )
        yield report.model_copy(update={"limit": gate.model_dump(include={"max_drop", "lower_bound_above"}, exclude_none=True)})


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
