"""The verdict of a run, and the one sentence beneath it that says what a person can do now."""

from __future__ import annotations

from posttrain.report.text import limits, number
from schemas.recipe import Recipe
from schemas.results import GateReport, ModelReport, RunReport


def verdict(recipe: Recipe, run: RunReport) -> str:
    """`failed`: a stage did not finish. `passed`: every gate held and the model is champion, or none was to be registered.
    `refused`: a gate failed, or nothing was registered although the recipe asks for it. `held`: registered without the alias
    `champion`, or nothing to decide."""
    if run.status == "failed":
        return "failed"
    if not all(gate.passed for gate in run.gates) or (recipe.registry and run.model is None):
        return "refused"
    champion = run.model.alias == "champion" if run.model else bool(run.gates)
    return "passed" if champion else "held"


def advice(recipe: Recipe, run: RunReport) -> str:
    """What to do now, in one sentence."""
    if run.error:
        return f"What to do: {run.error.remedy}."
    if failed := [gate for gate in run.gates if not gate.passed]:
        return _of_failed(failed)
    if run.model is None:
        asked = "look at what refused it" if recipe.registry else "add a registry section to the recipe to register the model"
        return f"Nothing was registered: {asked}."
    return _of_version(run.model)


def _of_failed(failed: list[GateReport]) -> str:
    told = " and ".join(f"{gate.name} is {number(gate.value)}, asked is {limits(gate.limit)}" for gate in failed)
    return f"Nothing reached the registry, since {told}: read the worst answers below, and change data or training, not the gate."


def _of_version(model: ModelReport) -> str:
    exact = f"models:/{model.name}/{model.version}"
    if model.alias == "champion":
        return (
            f"Nothing has to be done: whoever loads models:/{model.name}@champion gets version {model.version} from now on; "
            f'`posttrain rollback {model.name} --because "..."` takes that back.'
        )
    return (
        f"Read the worst answers below, and `posttrain compare models:/{model.name}@champion {exact}`; "
        f'`posttrain promote {exact} --because "..."` makes it champion nevertheless.'
    )
