"""The clean table of preference pairs: what `posttrain validate` promises the trainers."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

from schemas.messages import MESSAGE, SPLITS, answers


class Preferences(pa.DataFrameModel):
    """One pair a row: a prompt that both sides share, and on each side an answer of the assistant.

    An answer is one message, or several that begin and end with the assistant's: calls of tools and what they gave, and further
    turns where `data.checks.several_turns` keeps them.

    A row of a file may be several pairs, which then have the same `source` and `row`.
    `extra` has the row's other columns as a JSON object, which rewards and judges see.

    Validate a collected DataFrame with ``lazy=True``: on a LazyFrame pandera would silently skip the checks of values.
    """

    prompt: pl.List = pa.Field(dtype_kwargs={"inner": MESSAGE})
    chosen: pl.List = pa.Field(dtype_kwargs={"inner": MESSAGE})
    rejected: pl.List = pa.Field(dtype_kwargs={"inner": MESSAGE})
    source: pl.String = pa.Field()
    row: pl.Int64 = pa.Field(ge=1)
    score_chosen: pl.Float64 = pa.Field(nullable=True)
    score_rejected: pl.Float64 = pa.Field(nullable=True)
    split: pl.String = pa.Field(isin=SPLITS)
    extra: pl.String = pa.Field(nullable=True)

    class Config:
        strict = "filter"
        ordered = True
        unique = ["source", "row", "chosen", "rejected"]  # noqa: RUF012 - pandera reads a plain list

    @pa.dataframe_check(name="prompt_not_empty")
    def _prompt(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("prompt").list.len() > 0)

    @pa.dataframe_check(name="answers")
    def _answers(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(answers("chosen") & answers("rejected"))

    @pa.dataframe_check(name="sides_differ")
    def _sides(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("chosen") != pl.col("rejected"))

    @pa.dataframe_check(name="scores_agree")
    def _scores(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select((pl.col("score_chosen") > pl.col("score_rejected")).fill_null(True))
