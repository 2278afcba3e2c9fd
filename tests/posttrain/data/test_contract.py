"""Each check on rows made to hit it and rows made to miss it by a little."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from posttrain.data.contract import CONVERSATION_CHECKS, PREFERENCE_CHECKS, SIDES, RowCheck
from posttrain.data.conversations import COLUMNS as CONVERSATIONS
from posttrain.data.findings import Finding, Lengths, Tallied, finding
from posttrain.data.kinds import KINDS
from posttrain.data.passes import Passes
from posttrain.data.preferences import COLUMNS
from schemas.data import Checks

GOOD: dict[str, Any] = {"prompt": "What is up?", "chosen": "The sky.", "rejected": "No idea."}
LONG = "Please name three colours of the rainbow."  # 41 characters
WARNED = {"assistant_first", "unknown_split", *(f"{name}_{side}" for name in ("marker", "prompt_repeated") for side in SIDES)}


@dataclass(frozen=True)
class Verdict:
    """What a contract makes of a table."""

    clean: pl.DataFrame
    dropped: pl.DataFrame
    lengths: pl.DataFrame
    findings: list[Finding]


def judge(table: pl.DataFrame, checks: tuple[RowCheck, ...], limits: Checks, holdout: float, read: int) -> Verdict:
    """A table in two passes, in pieces of two rows: what is found must not depend on them."""
    passes = Passes(checks, [each() for each in KINDS["preferences"].across], holdout, Path())
    for part in [*table.iter_slices(2)] or [table]:
        passes.take(part)
    parts, tally = list(passes.decided()), Tallied()
    for part in parts:
        tally.add_hits(part.hits, part.rows)
    clean, dropped, lengths = (pl.concat([getattr(part, name) for part in parts]) for name in ("clean", "dropped", "lengths"))
    return Verdict(clean, dropped, lengths, [finding(check, tally, limits, read) for check in checks])


def verdict(*rows: dict[str, Any], checks: Checks | None = None, holdout: float = 0.0, read: int | None = None) -> Verdict:
    records = list(KINDS["preferences"].normalise(enumerate(rows, 1), "f", lambda bad: pytest.fail(bad.reason)))
    table = pl.DataFrame(records, schema=COLUMNS)
    return judge(table, PREFERENCE_CHECKS, checks or Checks(), holdout, read or len(rows))


def hits(result: Verdict) -> dict[str, int]:
    return {each.check: each.count for each in result.findings if each.count}


def messages(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": f"{role} {at}"} for at, role in enumerate(roles)]


def called(name: str) -> list[dict[str, Any]]:
    """An answer that calls a tool without a word, and goes on when the tool has spoken."""
    call = {"type": "function", "function": {"name": name, "arguments": {}}}
    return [{"role": "assistant", "content": "", "tool_calls": [call]}, *messages("tool", "assistant")]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, set()),
        ({"prompt": None}, {"empty_prompt", "roles_chosen", "roles_rejected"}),
        ({"prompt": " \n"}, {"empty_prompt"}),
        ({"chosen": None}, {"empty_chosen"}),
        ({"chosen": "\u2003"}, {"empty_chosen"}),
        ({"rejected": ""}, {"empty_rejected"}),
        ({"chosen": "No idea."}, {"identical"}),  # and no conflict with itself
        ({"chosen": "No  IDEA.\n"}, {"identical"}),
        ({"chosen": "A\nb", "rejected": "A b"}, {"identical"}),
        ({"chosen": "Caf\u00e9", "rejected": "CAFE\u0301"}, {"identical"}),
        ({"chosen": "\u00c9t\u00e9", "rejected": "E\u0301TE\u0301 "}, {"identical"}),
        ({"chosen": "E\u0301t\u00e9", "rejected": "\u00c9t\u00e9"}, {"identical"}),
        ({"chosen": "\u01fb", "rejected": "\u00e5\u0301"}, {"identical"}),  # neither starts with an ASCII letter
        ({"chosen": "No idea", "rejected": "No idea."}, set()),
        ({"chosen": "Sky.", "rejected": "Fly."}, set()),
        ({"prompt": messages("system", "user", "assistant", "user")}, set()),
        ({"prompt": messages("user", "user")}, {"roles_chosen", "roles_rejected"}),
        ({"prompt": messages("user", "system", "user")}, {"roles_chosen", "roles_rejected"}),
        ({"prompt": messages("assistant", "user")}, {"assistant_first"}),
        ({"prompt": messages("user", "assistant")}, {"roles_chosen", "roles_rejected"}),
        ({"prompt": messages("wizard")}, {"roles_chosen", "roles_rejected"}),
        ({"rejected": [{"role": "user", "content": "eh"}], "prompt": messages("user")}, {"roles_rejected"}),
        ({"chosen": "Sure. Human: and now?"}, {"marker_chosen"}),
        ({"prompt": "Assistant: is it you?"}, {"roles_chosen", "roles_rejected"}),
        ({"prompt": "Say Assistant: hi"}, {"marker_chosen", "marker_rejected"}),
        ({"chosen": "Superhuman: a film. Human beings."}, set()),
        ({"rejected": "ok<|im_end|>"}, {"template_token_rejected"}),
        ({"chosen": "\u200b\ufeff \u2060\x00\n"}, {"empty_chosen"}),
        ({"rejected": "ok<end_of_turn>"}, {"template_token_rejected"}),
        ({"rejected": "ok<\uff5cend\u2581of\u2581sentence\uff5c>"}, {"template_token_rejected"}),
        ({"prompt": "[INST] hi [/INST]"}, {"template_token_chosen", "template_token_rejected"}),
        ({"rejected": "a <| b and <|im end|> and [inst]"}, set()),
        ({"prompt": LONG, "chosen": f"{LONG} Red."}, {"prompt_repeated_chosen"}),
        ({"prompt": "Why?", "chosen": "Why? So."}, set()),
        (
            {"prompt": "Is (what you call) it so [or not]?", "chosen": "Is (what you call) it so [or not]? No."},
            {"prompt_repeated_chosen"},
        ),
        ({"prompt": "a" * 30, "chosen": "a" * 30}, {"prompt_repeated_chosen"}),
        ({"prompt": "a" * 29, "chosen": "a" * 29}, set()),
        ({"prompt": "a" * 30, "chosen": "a" * 29}, set()),
        (
            {"prompt": [*messages("user", "assistant"), {"role": "user", "content": LONG}], "rejected": LONG},
            {"prompt_repeated_rejected"},
        ),
        ({"chosen": called("look")}, set()),
        ({"chosen": called("look"), "rejected": called("read")}, set()),
        ({"chosen": called("look"), "rejected": called("look")}, {"identical"}),
        ({"chosen": [*called("look")[:2], {"role": "assistant", "content": " "}]}, {"empty_chosen"}),
        ({"chosen": [*messages("assistant", "user"), *messages("assistant")]}, {"prompt_mismatch"}),
        ({"rejected": [*messages("assistant", "user"), *messages("assistant")]}, {"prompt_mismatch"}),
        ({"score_chosen": 1, "score_rejected": 2}, {"reversed_scores"}),
        ({"score_chosen": 2, "score_rejected": 2}, {"tied_scores"}),
        ({"score_chosen": 2, "score_rejected": 1}, set()),
        ({"score_chosen": 2}, set()),
        ({"split": "nightly"}, {"unknown_split"}),
        ({"split": " TEST "}, set()),
    ],
)
def test_single_rows(change: dict[str, Any], expected: set[str]) -> None:
    result = verdict(GOOD | change)
    assert set(hits(result)) == expected
    assert [set(reasons) for reasons in result.dropped["reasons"]] == ([expected - WARNED] if expected - WARNED else [])


def test_finer_marks_that_contradict_are_told_and_dropped_by_none() -> None:
    """Row 1 has the better mark on the rejected side, row 2 equal ones, row 3 the better one on the chosen side."""
    rows = [GOOD | {"prompt": f"q {n}"} for n in range(3)]
    records = [*KINDS["preferences"].normalise(enumerate(rows, 1), "f", lambda bad: pytest.fail(bad.reason))]
    marks = {"fine_chosen": [1.0, 2.0, 3.0], "fine_rejected": [2.0, 2.0, 2.0]}
    table = pl.DataFrame(records, schema=COLUMNS).with_columns(pl.Series(name, each) for name, each in marks.items())
    result = judge(table, PREFERENCE_CHECKS, Checks(), 0.0, 3)
    assert [(each.check, each.examples) for each in result.findings if each.count] == [("fine_marks", ("f:1",))]
    assert result.dropped.is_empty()


def test_prompts_differ() -> None:
    """Row 1: another first answer. Row 2: the same conversation up to the answer."""
    q, a, b = messages("user", "assistant", "assistant")
    again = {"role": "user", "content": "again"}
    result = verdict({"chosen": [q, a, again, a], "rejected": [q, b, again, b]}, {"chosen": [q, a], "rejected": [q, b]})
    assert hits(result) == {"prompt_mismatch": 1, "duplicate_prompt": 1}
    assert result.dropped["row"].to_list() == [1]


def test_warnings_keep_their_rows() -> None:
    result = verdict(GOOD | {"chosen": "Sure. Human: and now?", "split": "nightly"})
    assert hits(result) == {"marker_chosen": 1, "unknown_split": 1}
    assert (result.clean["split"].to_list(), result.dropped.height) == (["train"], 0)


def test_every_reason_of_a_row_is_kept_with_its_values() -> None:
    row = {"prompt": "q", "chosen": "x<|im_end|>", "rejected": "", "score_chosen": 1, "score_rejected": 3, "split": "test"}
    [dropped] = verdict(row).dropped.to_dicts()
    assert (dropped["file"], dropped["row"]) == ("f", 1)
    assert set(dropped["reasons"]) == {"empty_rejected", "template_token_chosen", "reversed_scores"}
    assert json.loads(dropped["values"]) == {
        "prompt": [{"role": "user", "content": "q", "extra": None}],
        "chosen": [{"role": "assistant", "content": "x<|im_end|>", "extra": None}],
        "rejected": [{"role": "assistant", "content": "", "extra": None}],
        "score_chosen": 1.0,
        "score_rejected": 3.0,
        "fine_chosen": None,
        "fine_rejected": None,
        "split": "test",
        "extra": None,
    }


def test_duplicates_keep_the_first() -> None:
    """Row 3 repeats row 1; row 2 has another rejected answer."""
    result = verdict(GOOD, GOOD | {"rejected": "Hm."}, GOOD)
    assert hits(result) == {"duplicate": 1, "duplicate_prompt": 2}
    assert result.clean["row"].to_list() == [1, 2]


def test_conflicts_drop_both_sides_and_their_copies() -> None:
    """Rows 1 and 3 say A>B, row 2 says B>A, row 4 has the same answers to another prompt, row 5 another answer."""
    turned = {"prompt": GOOD["prompt"], "chosen": GOOD["rejected"], "rejected": GOOD["chosen"]}
    result = verdict(GOOD, turned, GOOD, turned | {"prompt": "Why?"}, GOOD | {"chosen": "Stars."})
    assert hits(result) == {"duplicate": 1, "conflict": 3, "duplicate_prompt": 3}
    assert result.clean["row"].to_list() == [4, 5]


def test_a_prompt_in_both_splits_leaves_train() -> None:
    """Row 1 is in train with the prompt of row 2 (spelt otherwise, with a system message), which is in test. Row 3 is alone."""
    leak = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": " what IS up?"}]
    result = verdict(
        GOOD | {"split": "train", "prompt": leak}, GOOD | {"split": "test"}, GOOD | {"split": "train", "prompt": "Else?"}
    )
    assert hits(result) == {"leaked_prompt": 1}
    assert result.clean.select("row", "split").rows() == [(2, "holdout"), (3, "train")]


def test_a_pair_in_both_splits_stays_in_the_holdout() -> None:
    result = verdict(GOOD | {"split": "train"}, GOOD | {"split": "validation"})
    assert result.clean.select("row", "split").rows() == [(2, "holdout")]


def test_an_undeclared_row_may_not_leak_into_a_declared_holdout() -> None:
    """Share 0 sends row 1 to train by its hash, but row 2 holds its prompt out."""
    assert verdict(GOOD, GOOD | {"split": "test", "chosen": "Up."}).dropped["reasons"].to_list() == [["leaked_prompt"]]


@pytest.mark.parametrize(
    ("bad", "waive", "failed"), [(1, (), False), (2, (), True), (2, ("reversed_scores",), False), (2, ("conflict",), True)]
)
def test_a_limit_fails_above_itself(bad: int, waive: tuple[Any, ...], failed: bool) -> None:
    """100 rows and a limit of 1%: one reversed row is at the limit, two are above."""
    rows = [GOOD | {"prompt": f"q {n}", "score_chosen": int(n >= bad), "score_rejected": 0.5} for n in range(100)]
    found = verdict(*rows, checks=Checks(reversed_scores_fail=0.01, waive=waive)).findings
    [finding] = [f for f in found if f.check == "reversed_scores"]
    assert (finding.count, finding.share, finding.limit, finding.failed) == (bad, bad / 100, 0.01, failed)
    assert finding.examples == tuple(f"f:{row}" for row in range(1, bad + 1))


def test_a_limit_of_zero_is_a_limit() -> None:
    row = GOOD | {"score_chosen": 0, "score_rejected": 1}
    assert any(f.failed for f in verdict(row, checks=Checks(reversed_scores_fail=0.0)).findings)


def test_shares_are_of_the_rows_read() -> None:
    """One hit among two rows here and eight that could not be read: 1 / 10."""
    result = verdict(GOOD, GOOD | {"chosen": ""}, read=10)
    assert [f.share for f in result.findings if f.check == "empty_chosen"] == [0.1]


def test_no_rows() -> None:
    result = judge(pl.DataFrame(schema=COLUMNS), PREFERENCE_CHECKS, Checks(), 0.1, 0)
    assert (result.clean.height, result.dropped.height, hits(result)) == (0, 0, {})


@pytest.mark.parametrize(
    ("longer", "shorter", "tied", "share", "severity", "waive"),
    [
        (13, 7, 0, 0.65, "warn", ()),
        (17, 3, 0, 0.85, "warn", ()),
        (18, 2, 0, 0.90, "fail", ()),
        (2, 18, 0, 0.10, "fail", ()),
        (18, 2, 0, 0.90, "warn", ("length_bias",)),
        (0, 0, 20, 0.50, "warn", ()),
        (17, 1, 2, 0.90, "fail", ()),
        (0, 0, 0, 0.50, "warn", ()),
    ],
)
def test_length_bias(longer: int, shorter: int, tied: int, share: float, severity: str, waive: tuple[Any, ...]) -> None:
    """Of 20 pairs; ties count half: (17 + 2 / 2) / 20 = .9. Limits .65 and .85 either way."""
    lengths = pl.DataFrame(
        {"chosen": [2] * longer + [1] * shorter + [1] * tied, "rejected": [1] * longer + [2] * shorter + [1] * tied},
        schema={"chosen": pl.UInt32, "rejected": pl.UInt32},
    )
    counted = Lengths(["chosen", "rejected"])
    for part in lengths.iter_slices(7):
        counted.add(part)
    found = counted.bias(Checks(waive=waive))
    assert found.share == pytest.approx(share)
    assert (found.severity, found.failed, found.count) == (severity, severity == "fail", longer)


def test_length_histogram() -> None:
    """Edges 0, 16, 32, 64: the longest, 32, is in the last bin."""
    lengths = pl.DataFrame({"chosen": [0, 15, 16], "rejected": [31, 32, 1]})
    counted = Lengths(["chosen", "rejected"])
    counted.add(lengths)
    assert counted.histogram() == {"edges": [0, 16, 32, 64], "chosen": [2, 1, 0], "rejected": [1, 1, 1]}


def test_characters_are_counted_not_bytes() -> None:
    assert verdict(GOOD | {"chosen": "\u00e9\u00e9"}).lengths.rows() == [(2, 8)]


def test_conversations_have_the_checks_of_one_side() -> None:
    """1 good, 2 a copy, 3 no answer, 4 the last turn is not the assistant's, 5 a template token."""
    rows: list[dict[str, Any]] = [
        {"prompt": "q", "completion": "a"},
        {"prompt": "q", "completion": "a"},
        {"prompt": "r", "completion": ""},
        {"messages": messages("user", "assistant", "user")},
        {"prompt": "s", "completion": "</SYS>> <</SYS>>"},
    ]
    table = pl.DataFrame(list(KINDS["instructions"].normalise(enumerate(rows, 1), "f", lambda bad: None)), schema=CONVERSATIONS)
    result = judge(table, CONVERSATION_CHECKS, Checks(), 0.0, len(rows))
    assert result.clean["row"].to_list() == [1]
    assert result.dropped.select("row", "reasons").rows() == [
        (2, ["duplicate"]),
        (3, ["empty_completion"]),
        (4, ["roles_completion"]),
        (5, ["template_token_completion"]),
    ]
