"""The clean table of prompts without answers: what `posttrain validate` promises PPO and evaluation."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

from schemas.messages import MESSAGE, SPLITS


class Prompts(pa.DataFrameModel):
    """One prompt a row: messages up to the one that is to be answered.

    `extra` has all other columns of the row as a JSON object, which rewards and judges see.

    Validate a collected DataFrame with ``lazy=True``: on a LazyFrame pandera would silently skip the checks of values.
    """

    prompt: pl.List = pa.Field(dtype_kwargs={"inner": MESSAGE})
    source: pl.String = pa.Field()
    row: pl.Int64 = pa.Field(ge=1)
    split: pl.String = pa.Field(isin=SPLITS)
    extra: pl.String = pa.Field(nullable=True)

    class Config:
        strict = "filter"
        ordered = True
        unique = ["source", "row"]  # noqa: RUF012 - pandera reads a plain list

    @pa.dataframe_check(name="prompt_not_empty")
    def _prompt(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("prompt").list.len() > 0)

    @pa.dataframe_check(name="to_be_answered")
    def _asked(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("prompt").list.last().struct.field("role") != "assistant")
