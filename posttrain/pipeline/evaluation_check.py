"""What rules out an evaluation before anything trains: its judge, its benchmarks, and what its gates need on this machine."""

from __future__ import annotations

from posttrain.pipeline.benchmark_check import check_benchmarks
from posttrain.rewards.judge import load_judge
from posttrain.runtime.endpoint_address import check_endpoint
from posttrain.text import language
from schemas.judge import FunctionJudge
from schemas.recipe import Recipe
from schemas.recipe_endpoints import endpoints


def check_evaluation(recipe: Recipe) -> None:
    """Check the function that judges, and where the stages run here what `check_here` does.

    Raises:
        Refusal: for the first reason.
    """
    if isinstance(recipe.evaluation.judge, FunctionJudge):
        load_judge(recipe.evaluation.judge)
    if recipe.placement == "inline":  # else on another machine, which checks it: see `machine_check.py`
        check_here(recipe)


def check_here(recipe: Recipe) -> None:
    """Check what only the machine that works can know: keys and addresses of endpoints, benchmarks, and installed packages.

    Raises:
        Refusal: for the first reason.
    """
    for where, endpoint in endpoints(recipe):
        check_endpoint(endpoint, where)
    if recipe.evaluation.gates.drift_languages:
        language.require("evaluation.gates.drift_languages")
    check_benchmarks(recipe)
