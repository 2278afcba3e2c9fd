"""Judges: who says how good a response is in evaluation."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from posttrain.reward_functions import Reward, load_function
from schemas.evaluation import FunctionJudge
from schemas.results import Origin


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
