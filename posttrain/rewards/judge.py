"""Judges: who says how good a response is in evaluation."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from posttrain.rewards.calls import Rows
from posttrain.rewards.endpoint_judge import ModelJudge
from posttrain.rewards.functions import REMEDY, SHOWN, RewardFunction, load_function, modules_of_user
from posttrain.runtime.permissions import refuse_function
from schemas.endpoint import Endpoint
from schemas.errors import Refusal
from schemas.judge import EndpointJudge, FunctionJudge
from schemas.recipe import Recipe
from schemas.results import Origin

Conversation = list[dict[str, Any]]


class Judge(Protocol):
    """Says how good answers are."""

    def __call__(
        self,
        prompts: Sequence[Conversation],
        responses: Sequence[str],
        on_rows: Callable[[int], None] = ...,
        rows: Rows | None = None,
    ) -> Sequence[float | None]:
        """One reward per answer, from conversations and the texts of the answers; `on_rows` is told how many were judged.

        None where the judge cannot say: the comparison is left out, and counted. `rows`, as `sample_rows` has them, are for
        functions.
        """


def open_model_judge(recipe: Recipe, cache: Path | None = None) -> ModelJudge | None:
    """The language model behind an endpoint that judges, or None; `cache` is the folder of answers that were got before.

    Raises:
        Refusal: as `ModelJudge`.
    """
    spec = recipe.evaluation.judge
    return ModelJudge(spec, "evaluation.judge", cache) if isinstance(spec, EndpointJudge) else None


def open_judge(recipe: Recipe, folder: Path | None = None, model_judge: ModelJudge | None = None) -> Judge | None:
    """What scores one answer at a time in a recipe's evaluation, or None; a function is given the last message of a conversation.

    Args:
        folder: output of the stage reward, for a recipe that judges by it.
        model_judge: of a recipe that judges by an endpoint; where it compares two answers it scores none.

    Raises:
        Refusal: as `load_function`; from the judge, when a reward is not finite.
    """
    match recipe.evaluation.judge:
        case None:
            return None
        case FunctionJudge() as judge:
            return _of_function(load_judge(judge))
        case EndpointJudge(mode=mode):
            return model_judge if mode == "pointwise" else None
    from posttrain.rewards.model import open_reward_model
    from posttrain.runtime.device import resolve_device, resolve_dtype

    assert folder  # a recipe with this judge has a reward stage, which the chain gives
    model = open_reward_model(folder, resolve_device(recipe.compute), resolve_dtype(recipe.compute))

    def by_model(
        prompts: Sequence[Conversation],
        responses: Sequence[str],
        on_rows: Callable[[int], None] = lambda n: None,
        rows: Rows | None = None,
    ) -> Sequence[float | None]:
        rewards: list[float | None] = model.of_texts(prompts, responses, on_rows).tolist()
        return rewards

    return _finite(by_model)


def _finite(judge: Judge) -> Judge:
    """A reward model's NaN would lose or win every comparison without a word. What functions return is checked with them."""

    def checked(
        prompts: Sequence[Conversation],
        responses: Sequence[str],
        on_rows: Callable[[int], None] = lambda n: None,
        rows: Rows | None = None,
    ) -> Sequence[float | None]:
        rewards = judge(prompts, responses, on_rows)
        for row, reward in enumerate(rewards):
            if reward is None or not math.isfinite(reward):
                found = f"a reward of {reward} from the reward model for answer {row}: {responses[row][:SHOWN]!r}"
                raise Refusal(
                    where="evaluation.judge",
                    found=found,
                    allowed="finite numbers",
                    remedy="lower reward.learning_rate, or set compute.dtype=float32",
                )
        return rewards

    return checked


def _of_function(function: RewardFunction) -> Judge:
    """A function is asked once: it may compare answers with each other."""

    def judge(
        prompts: Sequence[Conversation],
        responses: Sequence[str],
        on_rows: Callable[[int], None] = lambda n: None,
        rows: Rows | None = None,
    ) -> Sequence[float | None]:
        rewards = function([str(prompt[-1]["content"]) for prompt in prompts], responses, rows)
        on_rows(len(rewards))
        if rewards and all(reward is None for reward in rewards):
            raise Refusal(
                where=f"{function.field} ({function.name})",
                found=f"None for all of {len(rewards)} answers",
                allowed="a number for some of them at least: those without one are left out of every comparison",
                remedy=f"look whether the held-out rows have the column that it reads, or {REMEDY}",
            )
        return rewards

    return judge


def load_judge(judge: FunctionJudge) -> RewardFunction:
    """The function that `evaluation.judge.name` means, checked on every call.

    Raises:
        Refusal: as `load_function`.
    """
    return load_function(judge.name, "evaluation.judge.name")


def judge_origin(judge: FunctionJudge | EndpointJudge) -> Origin:
    """The judge as an input of evaluation: the source of its module, or which model answers where."""
    field = "evaluation.judge"
    return endpoint_origin(judge, field) if isinstance(judge, EndpointJudge) else function_origin(judge.name, field)


def endpoint_origin(endpoint: Endpoint, field: str) -> Origin:
    """A language model behind an endpoint as an input of a stage: which model answers where."""
    digest = hashlib.sha256(f"{endpoint.url}\0{endpoint.model}".encode()).hexdigest()
    return Origin(name=field, digest=digest, location=f"{endpoint.model} at {endpoint.url}")


def function_origin(name: str, field: str) -> Origin:
    """A Python function as an input of a stage: the source of its module."""
    refuse_function(name, f"{field}.name")  # looking for a module imports the packages that it is in
    with modules_of_user():
        spec = importlib.util.find_spec(name.partition(":")[0])
    source = Path(spec.origin).read_bytes() if spec and spec.origin else b""
    return Origin(name=field, digest=hashlib.sha256(source).hexdigest(), location=name)
