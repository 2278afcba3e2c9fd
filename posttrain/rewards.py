"""Judges: who says how good a response is in evaluation."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from posttrain.reward_functions import Reward, load_function
from schemas.evaluation import FunctionJudge
from schemas.recipe import Recipe
from schemas.results import Origin

Judge = Callable[[Sequence[list[dict[str, Any]]], Sequence[str]], Sequence[float]]
"""From conversations and the texts of the answers to one reward per answer."""


def open_judge(recipe: Recipe, folder: Path | None = None) -> Judge:
    """The judge of a recipe's evaluation: a function is given the last message of each conversation.

    Args:
        folder: output of the stage reward, for a recipe that judges by it.

    Raises:
        Refusal: as `load_function`.
    """
    judge = recipe.evaluation.judge
    if isinstance(judge, FunctionJudge):
        function = load_judge(judge)
        return lambda prompts, responses: function([str(prompt[-1]["content"]) for prompt in prompts], responses)
    from posttrain.device import resolve_device, resolve_dtype
    from posttrain.reward_models import open_reward_model

    assert folder
    model = open_reward_model(folder, resolve_device(recipe.compute), resolve_dtype(recipe.compute))
    return lambda prompts, responses: model.of_texts(prompts, responses).tolist()


def load_judge(judge: FunctionJudge) -> Reward:
    """The function that `evaluation.judge.name` means, checked on every call.

    Raises:
        Refusal: as `load_function`.
    """
    return load_function(judge.name, "evaluation.judge.name")


def judge_origin(judge: FunctionJudge) -> Origin:
    """The judge as an input of evaluation: the source of its module."""
    return function_origin(judge.name, "evaluation.judge")


def function_origin(name: str, field: str) -> Origin:
    """A Python function as an input of a stage: the source of its module."""
    spec = importlib.util.find_spec(name.partition(":")[0])
    source = Path(spec.origin).read_bytes() if spec and spec.origin else b""
    return Origin(name=field, digest=hashlib.sha256(source).hexdigest(), location=name)
