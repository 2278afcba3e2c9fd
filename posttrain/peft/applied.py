"""What is known about a model that a method was put on: kept with the model from `wrap` to its saving, whatever wraps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from posttrain.peft.base_identity import BaseIdentity
from posttrain.peft.methods import METHODS, AroundSteps
from schemas.peft import Peft

_ATTRIBUTE = "posttrain_adapted"


@dataclass
class Adapted:
    """A method on a model."""

    spec: Peft
    below: BaseIdentity
    """What the model was before."""
    tuner: Any = None
    """The peft model of the method; None for methods that peft lacks."""
    delta: dict[str, Any] = field(default_factory=dict)
    """For those, what their loader needs beside the tensors."""
    initial: dict[str, Tensor] = field(default_factory=dict)
    """First tensors of an adapter that was taken out of the weights, which makes it a plain adapter again when it is saved."""


def note(model: Any, known: Adapted) -> None:
    """Keep this with the model."""
    setattr(model, _ATTRIBUTE, known)


def adapted(model: Any) -> Adapted | None:
    """What was noted about a model, or None when no method was put on it."""
    found: Adapted | None = getattr(model, _ATTRIBUTE, None)
    return found


def around_steps(model: Any) -> AroundSteps | None:
    """What the method of a model does in each optimizer step, or None."""
    known = adapted(model)
    return None if known is None else METHODS[known.spec.method].steps(known.spec)
