"""What rules out an evaluation before anything trains: its judge, its benchmarks, and what its gates need on this machine."""

from __future__ import annotations

from posttrain.pipeline.benchmark_check import check_benchmarks
from posttrain.rewards.judge import load_judge
from posttrain.runtime.endpoint_address import check_endpoint
from posttrain.text import language
from schemas.judge import EndpointJudge, FunctionJudge
from schemas.recipe import Recipe


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
    """Check what only the machine that evaluates can know: an endpoint's key and address, benchmarks, and installed packages.

    Raises:
        Refusal: for the first reason.
    """
    if isinstance(recipe.evaluation.judge, EndpointJudge):
        check_endpoint(recipe.evaluation.judge, "evaluation.judge")
    if recipe.evaluation.gates.drift_languages:
        language.require("evaluation.gates.drift_languages")
    check_benchmarks(recipe)
