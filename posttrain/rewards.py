"""Judges: who says how good a response is."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence

from schemas.errors import Refusal
from schemas.evaluation import FunctionJudge

Reward = Callable[[Sequence[str], Sequence[str]], Sequence[float]]


def load_judge(judge: FunctionJudge) -> Reward:
    """The function that `evaluation.judge.name` means, checked on every call.

    Raises:
        Refusal: when the module or function does not exist; from the returned function, when a call gives the wrong number of
            rewards or one that is not finite.
    """
    module_name, _, function_name = judge.name.partition(":")
    try:
        function: Reward = getattr(importlib.import_module(module_name), function_name)
        if not callable(function):
            raise TypeError("not a function")
    except (ImportError, AttributeError, TypeError) as error:
        raise Refusal(
            "evaluation.judge.name", f"{judge.name} ({error})", "an importable module:function", "check the spelling"
        ) from error

    def checked(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        rewards = [float(reward) for reward in function(prompts, responses)]
        if len(rewards) != len(responses):
            raise _bad(judge, f"{len(rewards)} rewards for {len(responses)} responses", "one reward per response")
        for index, reward in enumerate(rewards):
            if not math.isfinite(reward):
                raise _bad(judge, f"{reward} for prompt {index}: {prompts[index][:80]!r}", "finite numbers")
        return rewards

    return checked


def _bad(judge: FunctionJudge, found: str, allowed: str) -> Refusal:
    return Refusal(
        f"evaluation.judge.name ({judge.name})",
        found,
        allowed,
        "mend the reward function and run again; finished stages are kept",
    )
