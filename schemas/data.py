"""Inputs, and the thresholds of their contracts."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, model_validator

from schemas.base import Frozen, refused
from schemas.checks import Checks as Checks
from schemas.sources import Sources, Weights, listed

CONTRACTS: Final[tuple[str, ...]] = ("preferences", "feedback", "instructions", "prompts")
"""Fields of `Data` whose rows are checked against a contract, one table each."""
SOURCES: Final[tuple[str, ...]] = ("corpus", *CONTRACTS)
"""Fields of `Data` that name inputs."""
ASKED: Final = ("prompts", "preferences", "feedback", "instructions")
"""The same in the order in which a recipe's first one gives the prompts of PPO and evaluation."""


class Data(Frozen):
    """Sources: a path, folder, glob, fsspec URL, `hub://NAME` or `sample://NAME`; or a list of them.

    Files are JSON lines, JSON, CSV, TSV, Parquet or Arrow, plain or as .gz, .zst, .bz2 or .xz. A source that says more is a
    mapping: `{path: …}` or `{name: …}` with `split`, `config`, `revision`, `weight`, `columns`,
    `ignore`, `ranking`. `${NAME}` stands for an environment
    variable; a password or token written out is refused.
    """

    corpus: Sources | None = None
    """Documents for pretraining, with a column `text`."""
    instructions: Sources | None = None
    """Conversations for supervised fine-tuning: `messages`, `prompt` and `completion`, or another shape of docs/data.md."""
    preferences: Sources | None = None
    """Preference pairs: `chosen` and `rejected`, with or without `prompt`, or another shape of docs/data.md."""
    feedback: Sources | None = None
    """Single answers that are desirable or not, for loss `kto`: `prompt`, `completion` and `label`, or another shape."""
    prompts: Sources | None = None
    """Prompts for PPO and evaluation, in place of those of pairs or conversations: `prompt`, `messages`, `question` or another
    shape of docs/data.md. All other columns are for reward functions and judges that take rows."""
    weights: Weights = Weights()
    """What the weights of sources are shares of: rows, or tokens."""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of prompts (by hash) and documents that no training stage sees."""
    checks: Checks = Checks()
    """Thresholds of the contracts."""

    @model_validator(mode="after")
    def _weights_apply(self) -> Data:
        """Weights compare sources, so that one without a weight among others that have one would mean nothing."""
        for field in SOURCES:
            weights = [source.weight for source in listed(getattr(self, field))]
            given = [weight for weight in weights if weight is not None]
            if given and field == "corpus":
                raise refused(
                    where="data.corpus",
                    found="a weight",
                    allowed="sources without weights: all documents that the rules keep are used",
                    remedy="remove weight",
                )
            if given and len(given) < len(weights):
                raise refused(
                    where=f"data.{field}",
                    found=f"{len(given)} of {len(weights)} sources with a weight",
                    allowed="a weight for every source, or for none",
                    remedy="give the others a weight too",
                )
        weighted = any(source.weight is not None for field in SOURCES for source in listed(getattr(self, field)))
        if self.weights.by == "tokens" and not weighted:
            raise refused(
                where="data.weights.by",
                found="tokens, and no source with a weight",
                allowed="sources with weights",
                remedy="give each source of a list its weight, or remove data.weights",
            )
        return self


class ValidateCommand(Frozen):
    """What `posttrain validate` takes of a recipe."""

    data: Data
    """As in a recipe."""
