"""Messages in tables: their types, and the splits of rows. Apart from the contracts, whose library takes a while to import."""

from __future__ import annotations

from typing import Final

import polars as pl

ROLES: Final = ("system", "user", "assistant", "tool")
SPLITS: Final = ("train", "holdout")
MESSAGE: Final = pl.Struct({"role": pl.String, "content": pl.String, "extra": pl.String})
"""`extra` is null, or a JSON object of what else the message has for a chat template: `tool_calls`, `tool_call_id`, `name`,
`reasoning_content`; `weight: 0` where it is not trained on; and `tools` on the first message of a conversation that has some."""
MESSAGES: Final = pl.List(MESSAGE)

# One answer of a pair may call tools before it ends; what goes on with the user is an answer only where the recipe says so.
_ANSWER: Final = "(?:assistant (?:tool )+)*assistant"
ONE_ANSWER: Final = f"^{_ANSWER}$"
"""Roles, with blanks between."""
SEVERAL_TURNS: Final = f"^{_ANSWER}(?: user {_ANSWER})*$"


def one_answer(column: str) -> pl.Expr:
    """Whether a column of messages holds exactly one message, by the assistant."""
    messages = pl.col(column)
    return (messages.list.len() == 1) & (messages.list.first().struct.field("role") == "assistant")


def answers(column: str) -> pl.Expr:
    """Whether a column of messages holds one answer, which may have called tools, or turns that go on from one with the user."""
    roles = pl.col(column).list.eval(pl.element().struct.field("role")).list.join(" ")
    return roles.str.contains(SEVERAL_TURNS)
