"""The contract of a corpus document, checked on a batch of rows before any filter sees them."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

DOCUMENTS = pa.DataFrameSchema(
    {
        "id": pa.Column(pl.String),
        "source": pa.Column(pl.String),
        "row": pa.Column(pl.Int64, pa.Check.ge(1)),
        "text": pa.Column(pl.String, pa.Check.str_contains(r"\S", error="text_empty")),
    },
    strict=True,
)
"""A document: identifier, file it came from, 1-based row in that file, and a text with at least one visible character."""

REASONS = {"not_nullable": "text_null"}


_BROKEN = {"position": pl.UInt32, "reason": pl.String}
_TYPES = {"id": pl.String, "text": pl.String, "source": pl.String, "row": pl.Int64}


def _plainly_whole(documents: pl.DataFrame) -> bool:
    """Whether nothing can be wrong: nearly all batches, and a hundredth of the time in which the contract says so."""
    if documents.schema != _TYPES or documents.is_empty() or sum(documents.null_count().row(0)):
        return False
    return bool(documents["text"].str.contains(r"\S").all()) and int(documents["row"].min()) >= 1  # type: ignore[arg-type]


def broken_rows(documents: pl.DataFrame) -> pl.DataFrame:
    """Positions of the rows whose text breaks the contract, with the machine-readable reason.

    Returns:
        Columns `position` (UInt32, ascending, each once) and `reason`: `text_null` or `text_empty`.

    Raises:
        pandera.errors.SchemaErrors: when a column other than `text` is wrong: a mistake of the caller, not of the data.
    """
    if _plainly_whole(documents):
        return pl.DataFrame(schema=_BROKEN)
    try:
        DOCUMENTS.validate(documents, lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases: pl.DataFrame = errors.failure_cases
        if cases["index"].null_count() or set(cases["column"]) != {"text"}:
            raise
        return cases.select(
            position=pl.col("index").cast(pl.UInt32), reason=pl.col("check").replace(REASONS).cast(pl.String)
        ).sort("position")
    return pl.DataFrame(schema=_BROKEN)
