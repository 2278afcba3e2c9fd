"""What a reward function or a judge sees of a sample beside prompt and response: one dictionary per sample."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from posttrain.data.encode import Conversation
from posttrain.data.packing import Tokens

NOT_SHOWN = ("prompt", "split", "extra", "source")


def columns_of(table: pl.DataFrame) -> list[dict[str, Any]]:
    """The columns of clean rows as a function sees them.

    All those of the data: what the normal form has (`completion`, or `chosen` and `rejected`, as messages), `file` and `row`
    where it was read, and every other column under its own name, which comes first where both have one.
    """
    return [_columns(row) for row in table.iter_rows(named=True)]


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in row.items() if name not in NOT_SHOWN}
    file = {"file": row["source"]} if "source" in row else {}
    return {**file, **own, **json.loads(row.get("extra") or "{}")}


def sample_rows(
    columns: Sequence[Mapping[str, Any]],
    conversations: Sequence[Conversation],
    prompts: Sequence[Tokens],
    responses: Sequence[Tokens],
    ended: Sequence[bool],
) -> list[dict[str, Any]]:
    """One dictionary per sample: the columns of its row of the data, and these of the sample.

    `conversation` is the prompt as messages; `prompt_tokens` and `response_tokens` are counts, the prompt's after cutting, EOS
    included; `ended` says whether the response ends in EOS. A column of the data that has one of these names is `data_NAME`.
    """
    samples = zip(columns, conversations, prompts, responses, ended, strict=True)
    return [
        _sample(
            row,
            {"conversation": conversation, "prompt_tokens": len(prompt), "response_tokens": len(response), "ended": bool(end)},
        )
        for row, conversation, prompt, response, end in samples
    ]


def _sample(columns: Mapping[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
    return {**{f"data_{name}" if name in sample else name: value for name, value in columns.items()}, **sample}
