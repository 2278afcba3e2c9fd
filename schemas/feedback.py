"""The clean table of unpaired feedback: what `posttrain validate` promises the trainers."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

from schemas.messages import MESSAGE, SPLITS, one_answer


class Feedback(pa.DataFrameModel):
    """One answer a row, and whether it is desirable.

    `extra` has the row's other columns as a JSON object, which rewards and judges see.

    Validate a collected DataFrame with ``lazy=True``: on a LazyFrame pandera would silently skip the checks of values.
    """

    prompt: pl.List = pa.Field(dtype_kwargs={"inner": MESSAGE})
    completion: pl.List = pa.Field(dtype_kwargs={"inner": MESSAGE})
    label: pl.Boolean = pa.Field()
    source: pl.String = pa.Field()
    row: pl.Int64 = pa.Field(ge=1)
    split: pl.String = pa.Field(isin=SPLITS)
    extra: pl.String = pa.Field(nullable=True)

    class Config:
        strict = "filter"
        ordered = True
        unique = ["source", "row", "completion"]  # noqa: RUF012 - pandera reads a plain list

    @pa.dataframe_check(name="prompt_not_empty")
    def _prompt(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("prompt").list.len() > 0)

    @pa.dataframe_check(name="one_answer")
    def _answer(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(one_answer("completion"))
