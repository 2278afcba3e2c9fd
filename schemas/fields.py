"""Types of fields that several sections have."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.base import Frozen


def _no_truth_value(value: Any) -> Any:
    """YAML reads `on` and `yes` as true, of which pydantic would make the number 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "a number, which a truth value is not")
    return value


Number = BeforeValidator(_no_truth_value)
Positive = Annotated[int, Field(ge=1), Number]
NonNegative = Annotated[float, Field(ge=0), Number]
AboveZero = Annotated[float, Field(gt=0), Number]
Share = Annotated[float, Field(ge=0, le=1), Number]
Temperature = Annotated[float, Field(ge=1e-3), Number]
"""Divides logits, in fp32: by one near 0 they would be infinite. At the lowest the most likely token is drawn."""
BelowOne = Annotated[float, Field(ge=0, lt=1), Number]
"""A share, decay or probability that cannot be 1."""
ImportName = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
"""`module:function`."""
ModelUri = Annotated[str, Field(pattern=r"^models:/[^/@]+(@[^/@]+|/[0-9]+)$")]
"""`models:/NAME@ALIAS` or `models:/NAME/VERSION`."""


class Limits(Frozen):
    """An inclusive interval; null is open, 0 means 0."""

    min: Annotated[float, Number] | None = None
    """Smallest allowed value."""
    max: Annotated[float, Number] | None = None
    """Largest allowed value."""

    @model_validator(mode="after")
    def _ordered(self) -> Limits:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise PydanticCustomError("bounds", "min {min} is above max {max}", {"min": self.min, "max": self.max})
        return self
