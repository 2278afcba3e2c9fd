"""The record of the method that was applied to a model; it stays with the model from `wrap` to `save_trained`."""

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
    """Identity of the model before the method was applied."""
    tuner: Any = None
    """The peft model, or None for methods that peft lacks."""
    delta: dict[str, Any] = field(default_factory=dict)
    """For methods that peft lacks: what their loader needs in addition to the tensors."""
    initial: dict[str, Tensor] = field(default_factory=dict)
    """Initial tensors of an adapter whose init subtracted it from the weights; saving uses them to write a plain adapter."""


def note(model: Any, known: Adapted) -> None:
    """Attach the record to the model."""
    setattr(model, _ATTRIBUTE, known)


def adapted(model: Any) -> Adapted | None:
    """The model's record, or None when no method was applied to it."""
    found: Adapted | None = getattr(model, _ATTRIBUTE, None)
    return found


def around_steps(model: Any) -> AroundSteps | None:
    """The hooks that the model's method runs around each optimizer step, or None."""
    known = adapted(model)
    return None if known is None else METHODS[known.spec.method].steps(known.spec)
