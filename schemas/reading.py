"""How the rows of a data set are read where their columns do not speak for themselves."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from schemas.base import Frozen
from schemas.fields import AboveZero

Column = Annotated[str, Field(min_length=1)]


class Reading(Frozen):
    """What a recipe says about the columns of one data set."""

    columns: dict[Column, Column] = Field(default={})
    """Known column: yours, as in `{prompt: question, chosen: good}`; a dot leads into an object (`prompt: data.question`)."""
    ignore: tuple[Column, ...] = ()
    """Columns, fields of messages and types of content that are left out on purpose, such as `images` or `system`."""
    ranking: Literal["best_worst", "adjacent"] = "best_worst"
    """Pairs of several ranked answers to a prompt: the best with the worst, or each with the next one below it."""
    extractor: Literal["trafilatura", "resiliparse"] = "trafilatura"
    """What takes the text out of the web pages of a WARC file: `trafilatura` leaves out more of what is no text, `resiliparse` is
    several times as fast."""
    page_seconds: AboveZero = 10
    """Seconds that a web page may take, after which it goes to quarantine."""

    def __hash__(self) -> int:
        """A recipe is a key of caches, and a mapping has no hash of its own."""
        return hash((tuple(sorted(self.columns.items())), self.ignore, self.ranking, self.extractor, self.page_seconds))


AS_READ: Final = Reading()
"""Columns as they stand in the file."""
