"""The contract of a table: every check as one row of a table of polars expressions, and what follows from a hit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import polars as pl

from posttrain.data.split import DECLARED, assign, folded
from schemas.data import Checks

Severity = Literal["warn", "drop", "fail"]

SIDES: Final = ("chosen", "rejected", "completion")
MARKER: Final = r"\b(?:Human|Assistant):"
# ChatML, Llama 3, Phi, Zephyr and kin share <|name|>; then Gemma; then Llama 2 and Mistral.
TEMPLATE_TOKEN: Final = r"<\|\w+\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
# A turn of the assistant may call tools, whose answers come before it goes on; a greeting by the assistant may come first.
_TURN: Final = "user (?:assistant (?:tool )+)*assistant"
ALTERNATING: Final = f"^(?:system )?(?:assistant )?(?:{_TURN} )*{_TURN}$"
QUOTABLE: Final = 30  # characters from which a prompt inside its answer is no coincidence
EXAMPLES: Final = 3


@dataclass(frozen=True)
class RowCheck:
    """A check of single rows. `hit` is an expression over `features`; above `limit` (a field of Checks) the data set fails."""

    name: str
    severity: Severity
    hit: pl.Expr
    limit: str | None = None


@dataclass(frozen=True)
class Finding:
    """How one check went. `share` is of the rows read; `limit` is None where nothing fails a data set."""

    check: str
    severity: Severity
    count: int
    share: float
    limit: float | None = None
    failed: bool = False
    examples: tuple[str, ...] = ()

    def as_row(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"examples": list(self.examples)}


@dataclass(frozen=True)
class Verdict:
    """What a contract makes of a table."""

    clean: pl.DataFrame
    """The rows kept, with `split` resolved to train or holdout."""
    dropped: pl.DataFrame
    """`file`, `row`, `reasons` (all of them), `values` (JSON text)."""
    lengths: pl.DataFrame
    """Characters of each side of the rows kept."""
    findings: list[Finding]


def features(table: pl.DataFrame, holdout: float) -> pl.DataFrame:
    """The table with the columns that the checks read, and with `split` resolved (`declared` keeps what stood there).

    Per message column C: `C_text` (contents, two newlines between), `C_extra` (calls of tools and the like), `C_roles` (blanks
    between), `C_blank` (no messages, or one without text or call). `key` is the prompt, folded and without its system message;
    `pair` and `reversed` are hashes of the contents and calls;
    `same` says that two sides are equal but for case, white space and Unicode composition.
    """
    sides = [side for side in SIDES if side in table.columns]
    columns = ["prompt", *sides]
    contents = [_contents(c).list.join("\n\n").alias(f"{c}_text") for c in columns]
    roles = [pl.col(c).list.eval(pl.element().struct.field("role")).list.join(" ").alias(f"{c}_roles") for c in columns]
    extras = [_extras(c).alias(f"{c}_extra") for c in columns]
    blank = [_blank(c).alias(f"{c}_blank") for c in columns]
    question = _contents("prompt").list.last().alias("question")
    keys = folded(table.select(_key()).to_series())
    wide = table.rename({"split": "declared"}).with_columns(*contents, *extras, *roles, *blank, question, key=keys.hash())
    same = _sides_equal(wide, sides)
    wide = wide.with_columns(assign(wide["declared"], keys, holdout), same)
    hashes = wide.select("prompt_roles", *(pl.struct(f"{c}_text", f"{c}_extra").hash().alias(f"{c}_text") for c in columns))
    if "label" in table.columns:  # an answer and its label stand for the order of a pair
        labels = (table["label"], ~table["label"])
        hashes = hashes.with_columns(pl.struct("completion_text", labels[0]).hash().alias("one_text"),
                                     pl.struct("completion_text", labels[1]).hash().alias("other_text"))  # fmt: skip
        return wide.with_columns(_identity(hashes, ["one"], "pair"), _identity(hashes, ["other"], "reversed"))
    return wide.with_columns(_identity(hashes, sides, "pair"), _identity(hashes, sides[::-1], "reversed"))


def _contents(column: str) -> pl.Expr:
    return pl.col(column).list.eval(pl.element().struct.field("content"))


def _extras(column: str) -> pl.Expr:
    """What the messages of a column have beside their contents."""
    extras = pl.col(column).list.eval(pl.element().struct.field("extra"))
    return extras.list.join("\n", ignore_nulls=True).fill_null("")


def _blank(column: str) -> pl.Expr:
    """No messages, or one that says nothing and calls no tool."""
    silent = pl.element().struct.field("content").str.strip_chars() == ""
    calls = pl.element().struct.field("extra").str.contains('"tool_calls"', literal=True).fill_null(False)
    return (pl.col(column).list.len() == 0) | pl.col(column).list.eval(silent & ~calls).list.any()


def _key() -> pl.Expr:
    """The prompt's text without a leading system message: the same question stays on its side whatever the system message."""
    system = pl.col("prompt").list.first().struct.field("role") == "system"
    return _contents("prompt").list.slice(system.fill_null(False).cast(pl.Int64)).list.join(" ")


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
        RowCheck(f"prompt_repeated_{side}", "warn", quoted),
    )


_HELD: Final = pl.col("split") == "holdout"
_KNOWN: Final = pl.col("declared").is_null() | pl.col("declared").str.strip_chars().str.to_lowercase().is_in(list(DECLARED))
_OF_ALL: Final = (
    RowCheck("empty_prompt", "drop", pl.col("prompt_blank")),
    # Within a split: a pair in both splits is a leak, and must not be dropped from the holdout as well.
    RowCheck("duplicate", "drop", ~pl.struct("pair", "split").is_first_distinct()),
    RowCheck("leaked_prompt", "drop", ~_HELD & pl.col("key").is_in(pl.col("key").filter(_HELD).implode())),
    RowCheck("unknown_split", "warn", ~_KNOWN),
    # Kept as it is; a chat template that starts with the user alone refuses such rows, and encoding leaves them out.
    RowCheck("assistant_first", "warn", pl.col("prompt_roles").str.contains("^(?:system )?assistant user")),
)

_CONFLICT: Final = RowCheck(
    "conflict",
    "drop",
    pl.col("pair").is_in(pl.col("reversed").implode()) & (pl.col("pair") != pl.col("reversed")),
    "conflict_fail",
)

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
    RowCheck(
        "prompt_mismatch",
        "drop",
        (pl.col("chosen").list.len() > 1) | (pl.col("rejected").list.len() > 1),
        "prompt_mismatch_fail",
    ),
    _CONFLICT,
    RowCheck("reversed_scores", "drop", pl.col("score_chosen") < pl.col("score_rejected"), "reversed_scores_fail"),
    RowCheck("tied_scores", "drop", pl.col("score_chosen") == pl.col("score_rejected")),
)


def judge(table: pl.DataFrame, checks: tuple[RowCheck, ...], limits: Checks, holdout: float, rows_read: int) -> Verdict:
    """Run every check on every row, in one pass of vectorised expressions.

    Args:
        table: collected rows in normal form, `split` as declared or null.
        checks: the contract.
        limits: thresholds of the recipe.
        holdout: part of the prompts to hold out.
        rows_read: denominator of the shares; rows that could not be read count too.
    """
    wide = features(table, holdout)
    hits = wide.select(check.hit.fill_null(False).alias(check.name) for check in checks)
    dropping = [check.name for check in checks if check.severity == "drop"]
    bad = hits.select(pl.any_horizontal(dropping)).to_series()
    sides = [side for side in SIDES if side in table.columns]
    return Verdict(
        clean=wide.filter(~bad).select(table.columns),
        dropped=_quarantined(table.filter(bad), hits.filter(bad).select(dropping)),
        lengths=wide.filter(~bad).select(pl.col(f"{side}_text").str.len_chars().alias(side) for side in sides),
        findings=[_finding(check, hits[check.name], table, limits, rows_read) for check in checks],
    )


def _quarantined(rows: pl.DataFrame, hits: pl.DataFrame) -> pl.DataFrame:
    """Each dropped row with all its reasons and its values."""
    values = pl.struct(pl.exclude("source", "row")).struct.json_encode()
    reasons = pl.concat_list(pl.when(name).then(pl.lit(name)) for name in hits.columns).list.drop_nulls()
    return rows.select(pl.col("source").alias("file"), "row", values.alias("values")).with_columns(
        hits.select(reasons.alias("reasons")).to_series()
    )


def _finding(check: RowCheck, hits: pl.Series, table: pl.DataFrame, limits: Checks, rows_read: int) -> Finding:
    share = int(hits.sum()) / max(rows_read, 1)
    limit = getattr(limits, check.limit) if check.limit else None
    failed = limit is not None and share > limit and check.name not in limits.waive
    return Finding(check.name, check.severity, int(hits.sum()), share, limit, failed, examples(table.filter(hits), "source"))


def examples(rows: pl.DataFrame, file: str) -> tuple[str, ...]:
    """`file:row` of the first few rows."""
    return tuple(rows.head(EXAMPLES).select(pl.format("{}:{}", file, "row")).to_series())


def length_bias(lengths: pl.DataFrame, limits: Checks) -> Finding:
    """P(the chosen side is longer) in characters, a tie counting one half, so that equal lengths are no bias."""
    longer = lengths.filter(pl.col("chosen") > pl.col("rejected")).height
    tied = lengths.filter(pl.col("chosen") == pl.col("rejected")).height
    share = (longer + tied / 2) / lengths.height if lengths.height else 0.5
    strength = max(share, 1 - share)
    if strength > limits.length_bias_fail and "length_bias" not in limits.waive:
        return Finding("length_bias", "fail", longer, share, limits.length_bias_fail, failed=True)
    return Finding("length_bias", "warn", longer, share, limits.length_bias_warn)


def length_histogram(lengths: pl.DataFrame) -> dict[str, list[int]]:
    """Counts per side between `edges` (characters): 0, then doubling from 16 to above the longest."""
    longest = max((int(series.max() or 0) for series in lengths), default=0)  # type: ignore[arg-type]  # polars says Any of a maximum
    edges = [0, *(2**power for power in range(4, max(longest.bit_length(), 4) + 1))]
    return {"edges": edges} | {side: np.histogram(lengths[side].to_numpy(), edges)[0].tolist() for side in lengths.columns}
