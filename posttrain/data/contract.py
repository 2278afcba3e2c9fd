"""The contract of rows: every check as one row of a table, with a polars expression where a row alone shows whether it is hit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from posttrain.data.split import DECLARED, assign, folded
from schemas.checks import Adjustable
from schemas.messages import ONE_ANSWER

Severity = Literal["warn", "drop", "fail"]

SIDES: Final = ("chosen", "rejected", "completion")
SAID: Final = r"[^\s\p{Cc}\p{Cf}]"  # neither blank nor control character nor one without width
MARKER: Final = r"\b(?:Human|Assistant):"
# ChatML, Llama 3, Phi, Zephyr and kin share <|name|>; then Gemma; then Llama 2 and Mistral; then DeepSeek, whose bars are wide.
TEMPLATE_TOKEN: Final = r"<\|\w+\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|<\x{FF5C}[\w\x{2581}]+\x{FF5C}>"
# A turn of the assistant may call tools, whose answers come before it goes on; a greeting by the assistant may come first.
_TURN: Final = "user (?:assistant (?:tool )+)*assistant"
ALTERNATING: Final = f"^(?:system )?(?:assistant )?(?:{_TURN} )*{_TURN}$"
CALLS: Final = '"tool_calls"'  # in what a message has beside its content
QUOTABLE: Final = 30  # characters from which a prompt inside its answer is no coincidence


@dataclass(frozen=True)
class RowCheck:
    """A check of rows. Above `limit` (a field of Checks) the data set fails.

    `hit` is an expression over `features`, or `find` a function of them. Without either an `Across` finds the hits, when all rows
    have been seen.
    """

    name: str
    severity: Severity
    hit: pl.Expr | None = None
    limit: str | None = None
    find: Callable[[pl.DataFrame], NDArray[np.bool_]] | None = None

    @property
    def kind(self) -> str:
        """What a recipe calls it."""
        return kind_of(self.name)


_KINDS: Final[dict[str, str]] = {"length_auc": "length_bias"} | {
    f"{base}_{part}": base for base in get_args(Adjustable) for part in ("prompt", *SIDES)
}


def kind_of(name: str) -> str:
    """What a recipe calls a check: `marker` for `marker_chosen` and its like."""
    return _KINDS.get(name, name)


def features(table: pl.DataFrame, holdout: float) -> pl.DataFrame:
    """The table with the columns that the checks read, and with `split` resolved (`declared` keeps what stood there).

    Per message column C: `C_text` (contents, two newlines between), `C_extra` (calls of tools and the like), `C_roles` (blanks
    between), `C_blank` (no messages, or one without text or call). `key` is the prompt, folded and without its system message;
    `pair` and `reversed` are hashes of the contents and calls;
    `same` says that two sides are equal but for case, white space and Unicode composition.
    """
    sides = [side for side in SIDES if side in table.columns]
    columns = ["prompt", *sides]
    read = [each for column in columns for each in _read(table[column])]
    question = _contents("prompt").list.last().alias("question")
    keys = folded(asked(table["prompt"]))
    wide = table.rename({"split": "declared"}).with_columns(*read, question, key=keys.hash())
    same = _sides_equal(wide, sides)
    wide = wide.with_columns(assign(wide["declared"], keys, holdout), same)
    hashes = wide.select("prompt_roles", *(pl.struct(f"{c}_text", f"{c}_extra").hash().alias(f"{c}_text") for c in columns))
    if "label" in table.columns:  # an answer and its label stand for the order of a pair
        labels = (table["label"], ~table["label"])
        hashes = hashes.with_columns(pl.struct("completion_text", labels[0]).hash().alias("one_text"),
                                     pl.struct("completion_text", labels[1]).hash().alias("other_text"))  # fmt: skip
        return wide.with_columns(_identity(hashes, ["one"], "pair"), _identity(hashes, ["other"], "reversed"))
    return wide.with_columns(_identity(hashes, sides, "pair"), _identity(hashes, sides[::-1], "reversed"))


def _read(messages: pl.Series) -> list[pl.Series | pl.Expr]:
    """`_text`, `_roles`, `_extra` and `_blank` of a column of messages."""
    column = messages.name
    if (alone := _alone(messages)) is not None:
        extra = alone["extra"].fill_null("")
        blank = ~alone["content"].str.contains(SAID) & ~extra.str.contains(CALLS, literal=True)
        found = {"text": alone["content"], "roles": alone["role"], "extra": extra, "blank": blank}
        return [series.alias(f"{column}_{name}") for name, series in found.items()]
    return [
        _contents(column).list.join("\n\n").alias(f"{column}_text"),
        pl.col(column).list.eval(pl.element().struct.field("role")).list.join(" ").alias(f"{column}_roles"),
        _extras(column).alias(f"{column}_extra"),
        _blank(column).alias(f"{column}_blank"),
    ]


def _alone(messages: pl.Series) -> pl.DataFrame | None:
    """The messages of a column in which each row has one, as answers and most prompts do: there is nothing to be joined."""
    if messages.has_nulls() or not (messages.list.len() == 1).all():
        return None
    alone = messages.explode().struct.unnest()
    return None if alone["content"].has_nulls() or alone["role"].has_nulls() else alone


def _contents(column: str) -> pl.Expr:
    return pl.col(column).list.eval(pl.element().struct.field("content"))


def _extras(column: str) -> pl.Expr:
    """What the messages of a column have beside their contents."""
    extras = pl.col(column).list.eval(pl.element().struct.field("extra"))
    return extras.list.join("\n", ignore_nulls=True).fill_null("")


def _blank(column: str) -> pl.Expr:
    """No messages, or one that says nothing and calls no tool."""
    silent = ~pl.element().struct.field("content").str.contains(SAID)
    calls = pl.element().struct.field("extra").str.contains(CALLS, literal=True).fill_null(False)
    return (pl.col(column).list.len() == 0) | pl.col(column).list.eval(silent & ~calls).list.any()


def asked(prompts: pl.Series) -> pl.Series:
    """The prompts' texts without a leading system message: the same question stays on its side whatever the system message."""
    if (alone := _alone(prompts)) is not None:
        return alone["content"].zip_with(alone["role"] != "system", pl.Series([""]))
    table = prompts.alias("prompt").to_frame()
    system = pl.col("prompt").list.first().struct.field("role") == "system"
    texts = _contents("prompt").list.slice(system.fill_null(False).cast(pl.Int64)).list.join(" ")
    return table.select(texts).to_series()


def _identity(hashes: pl.DataFrame, sides: Sequence[str], name: str) -> pl.Series:
    texts = [f"{side}_text" for side in sides]
    return hashes.select(pl.struct("prompt_roles", "prompt_text", *texts).hash().alias(name)).to_series()


def _sides_equal(wide: pl.DataFrame, sides: Sequence[str]) -> pl.Series:
    if not sides:
        return pl.repeat(False, len(wide), dtype=pl.Boolean, eager=True).rename("same")
    return _same(*(wide[f"{side}_text"] for side in sides)) & _all_equal(*(wide[f"{side}_extra"] for side in sides))


def _same(one: pl.Series, *other: pl.Series) -> pl.Series:
    """Whether two sides are equal after folding, as the column `same`; false where there is one side.

    Folding is what costs, so only sides that may be equal are folded: not those that start with two different ASCII characters.
    """
    same = pl.repeat(False, len(one), dtype=pl.Boolean, eager=True).rename("same")
    for two in other:
        starts = [side.str.strip_chars_start().str.slice(0, 1).str.to_lowercase() for side in (one, two)]
        ascii_start = [start.str.len_bytes() == 1 for start in starts]
        alike = (starts[0] == starts[1]) | ~ascii_start[0] | ~ascii_start[1]
        same = same.scatter(alike.arg_true(), folded(one.filter(alike)) == folded(two.filter(alike)))
    return same


def _all_equal(one: pl.Series, *other: pl.Series) -> pl.Series:
    return pl.repeat(True, len(one), dtype=pl.Boolean, eager=True) if not other else one == other[0]


def _of_side(side: str) -> tuple[RowCheck, ...]:
    text, both = pl.col(f"{side}_text"), (pl.col("prompt_text"), pl.col(f"{side}_text"))
    roles = pl.concat_str("prompt_roles", f"{side}_roles", separator=" ")
    fits = pl.col("question").str.len_chars().is_between(QUOTABLE, text.str.len_chars())
    quoted = text.str.contains(pl.when(fits).then("question"), literal=True)
    return (
        RowCheck(f"empty_{side}", "drop", pl.col(f"{side}_blank")),
        RowCheck(f"roles_{side}", "drop", ~roles.str.contains(ALTERNATING) & (pl.col(f"{side}_roles") != "")),
        RowCheck(f"template_token_{side}", "drop", pl.any_horizontal(each.str.contains(TEMPLATE_TOKEN) for each in both)),
        RowCheck(f"marker_{side}", "warn", pl.any_horizontal(each.str.contains(MARKER) for each in both)),
        RowCheck(f"prompt_repeated_{side}", "warn", quoted, "prompt_repeated_fail"),
    )


def mismatch(sides: str) -> pl.Expr:
    """Whether a side of a pair, without the turns that both share, is more than one message and not of these roles."""
    several = ((pl.col(side).list.len() > 1) & ~pl.col(f"{side}_roles").str.contains(sides) for side in ("chosen", "rejected"))
    return pl.any_horizontal(several)


_KNOWN: Final = pl.col("declared").is_null() | pl.col("declared").str.strip_chars().str.to_lowercase().is_in(list(DECLARED))
_OF_ALL: Final = (
    RowCheck("empty_prompt", "drop", pl.col("prompt_blank")),
    RowCheck("duplicate", "drop"),
    RowCheck("leaked_prompt", "drop"),
    RowCheck("duplicate_prompt", "warn"),
    RowCheck("unknown_split", "warn", ~_KNOWN),
    # Kept as it is; a chat template that starts with the user alone refuses such rows, and encoding leaves them out.
    RowCheck("assistant_first", "warn", pl.col("prompt_roles").str.contains("^(?:system )?assistant user")),
)

_CONFLICT: Final = RowCheck("conflict", "drop", limit="conflict_fail")

PROMPT_CHECKS: Final = (
    *_OF_ALL,
    RowCheck("roles_prompt", "drop", ~pl.concat_str("prompt_roles", pl.lit(" assistant")).str.contains(ALTERNATING)
             & (pl.col("prompt_roles") != "")),
    RowCheck("template_token_prompt", "drop", pl.col("prompt_text").str.contains(TEMPLATE_TOKEN)),
    RowCheck("marker_prompt", "warn", pl.col("prompt_text").str.contains(MARKER)),
)  # fmt: skip
CONVERSATION_CHECKS: Final = (*_OF_ALL, *_of_side("completion"))
FEEDBACK_CHECKS: Final = (*CONVERSATION_CHECKS, _CONFLICT)
PREFERENCE_CHECKS: Final = (
    *_OF_ALL,
    *_of_side("chosen"),
    *_of_side("rejected"),
    RowCheck("identical", "drop", pl.col("same")),
    RowCheck("prompt_mismatch", "drop", mismatch(ONE_ANSWER), "prompt_mismatch_fail"),
    _CONFLICT,
    RowCheck("reversed_scores", "drop", pl.col("score_chosen") < pl.col("score_rejected"), "reversed_scores_fail"),
    RowCheck("tied_scores", "drop", pl.col("score_chosen") == pl.col("score_rejected")),
    RowCheck("fine_marks", "warn", pl.col("fine_chosen") < pl.col("fine_rejected")),
)
