"""Who scores responses in evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from schemas.base import Frozen
from schemas.endpoint import Endpoint
from schemas.fields import ImportName, Number, Share


class FunctionJudge(Frozen):
    """A Python function of (prompts, responses) or (prompts, responses, rows) that returns one reward per response."""

    source: Literal["function"] = "function"
    """A Python function."""
    name: ImportName
    """`module:function`; `posttrain.data.samples:sentiment` is a toy for the sample reviews."""


class RewardModelJudge(Frozen):
    """The reward model that this run trains. A policy that was aligned with it is judged by what it was trained to please."""

    source: Literal["reward_model"]
    """The stage reward."""


class EndpointJudge(Endpoint):
    """A language model behind an OpenAI-compatible endpoint. Its answers are kept in the store, and not asked for again."""

    source: Literal["endpoint"]
    """An OpenAI-compatible endpoint."""
    mode: Literal["pairwise", "pointwise"] = "pairwise"
    """`pairwise` compares two responses, once in either order; `pointwise` scores each response alone."""
    criteria: Annotated[str, Field(min_length=1, max_length=8000)] = "helpfulness, correctness and honesty"
    """By what it judges: completes the sentence "Judge by ...". """
    scale: Annotated[int, Field(ge=2, le=100), Number] = 10
    """Highest score of `pointwise`; the lowest is 1."""
    pairs: Annotated[int, Field(ge=0), Number] = 64
    """Held-out pairs that it judges as well, to be compared with their human labels; 0: none."""
    max_failed: Share = 0.2
    """Largest share of questions without a verdict, those beyond `max_calls` aside; with more, evaluation is refused."""


def _function_by_default(given: Any) -> Any:
    return {"source": "function", **given} if isinstance(given, dict) else given


Judge = Annotated[
    Annotated[FunctionJudge | RewardModelJudge | EndpointJudge, Field(discriminator="source")],
    BeforeValidator(_function_by_default),
]
