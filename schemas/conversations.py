"""The clean table of conversations for supervised fine-tuning: what `posttrain validate` promises the trainers."""

from __future__ import annotations

from typing import Final

import pandera.polars as pa
import polars as pl

SPLITS: Final = ("train", "holdout")
MESSAGE: Final = pl.Struct({"role": pl.String, "content": pl.String, "extra": pl.String})
"""`extra` is null, or a JSON object of what else the message has for a chat template: `tool_calls`, `tool_call_id`, `name`,
`reasoning_content`; `weight: 0` where it is not trained on; and `tools` on the first message of a conversation that has some."""
MESSAGES: Final = pl.List(MESSAGE)


def one_answer(column: str) -> pl.Expr:
    """Whether a column of messages holds exactly one message, by the assistant."""
    messages = pl.col(column)
    return (messages.list.len() == 1) & (messages.list.first().struct.field("role") == "assistant")


class Conversations(pa.DataFrameModel):
    """One conversation a row: the answer to learn, and everything before it.

    Validate a collected DataFrame with ``lazy=True``: on a LazyFrame pandera would silently skip the checks of values.
    """

    prompt: pl.List = pa.Field(dtype_kwargs={"inner": MESSAGE})
    completion: pl.List = pa.Field(dtype_kwargs={"inner": MESSAGE})
    source: pl.String = pa.Field()
    row: pl.Int64 = pa.Field(ge=1)
    split: pl.String = pa.Field(isin=SPLITS)

    class Config:
        strict = "filter"
        ordered = True
        unique = ["source", "row"]  # noqa: RUF012 - pandera reads a plain list

    @pa.dataframe_check(name="prompt_not_empty")
    def _prompt(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("prompt").list.len() > 0)

    @pa.dataframe_check(name="one_answer")
    def _answer(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(one_answer("completion"))
