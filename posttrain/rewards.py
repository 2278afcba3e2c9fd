"""Judges: who says how good a response is."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.errors import Refusal
from schemas.evaluation import FunctionJudge
from schemas.results import Origin

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
    except Exception as error:  # the module is the user's and may raise anything
        raise Refusal(
            "evaluation.judge.name", f"{judge.name} ({error})", "an importable module:function", "check the spelling"
        ) from error

    def checked(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        try:
            rewards = [float(reward) for reward in function(prompts, responses)]
        except Exception as error:
            raise _bad(judge, f"{type(error).__name__}: {error}", "one number per response") from error
        if len(rewards) != len(responses):
            raise _bad(judge, f"{len(rewards)} rewards for {len(responses)} responses", "one reward per response")
        for index, reward in enumerate(rewards):
            if not math.isfinite(reward):
                raise _bad(judge, f"{reward} for prompt {index}: {prompts[index][:80]!r}", "finite numbers")
        return rewards

    return checked


def judge_origin(judge: FunctionJudge) -> Origin:
    """The judge as an input of evaluation: the source of its module."""
    spec = importlib.util.find_spec(judge.name.partition(":")[0])
    source = Path(spec.origin).read_bytes() if spec and spec.origin else b""
    return Origin(name="evaluation.judge", digest=hashlib.sha256(source).hexdigest(), location=judge.name)


def _bad(judge: FunctionJudge, found: str, allowed: str) -> Refusal:
    return Refusal(
        f"evaluation.judge.name ({judge.name})",
        found,
        allowed,
        "mend the reward function and run again; finished stages are kept",
    )
