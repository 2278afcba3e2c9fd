"""The base of every contract: immutable, and closed to unknown fields so that a typo is never ignored."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Frozen(BaseModel):
    """A frozen model that refuses unknown fields and shows its attribute docstrings as field descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # it may be a secret, or large
    )


def refused(*, where: str, found: str, allowed: str, remedy: str) -> PydanticCustomError:
    """A validation error that carries the four parts of a refusal; `schemas/load.py` turns it into one."""
    context = {"where": where, "found": found, "allowed": allowed, "remedy": remedy}
    return PydanticCustomError("refused", "{where}: found {found}", context)
