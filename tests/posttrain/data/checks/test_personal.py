"""Personal data in rows: where it is found, and what stands in its place."""

from __future__ import annotations

import polars as pl

from posttrain.data.checks.personal import personal, redacted
from posttrain.data.preferences import COLUMNS

KINDS = ("email", "ip", "card", "iban", "secret")


def said(*texts: str) -> list[dict[str, str | None]]:
    return [{"role": "user" if at % 2 == 0 else "assistant", "content": text, "extra": None} for at, text in enumerate(texts)]


def table(*rows: tuple[list, list, list]) -> pl.DataFrame:
    columns = {name: [row[at] for row in rows] for at, name in enumerate(("prompt", "chosen", "rejected"))}
    schema = {name: COLUMNS[name] for name in columns} | {"row": pl.Int64}
    return pl.DataFrame(columns | {"row": list(range(len(rows)))}, schema=schema)


def test_every_part_is_looked_at():
    parts = [pl.Series(["ask", "mail a.b@example.com", None]), pl.Series(["fine", "ok", "key AKIAIOSFODNN7EXAMPLE."])]
    assert personal(parts, KINDS).tolist() == [False, True, True]
    assert personal(parts, ("email",)).tolist() == [False, True, False]
    assert personal(parts[:1], KINDS).tolist() == [False, True, False]
    assert personal([], KINDS).tolist() == []


def test_placeholders_stand_in_their_messages_and_nothing_else_changes():
    """The second message of the first prompt, and a chosen answer; a row without messages stays without."""
    given = table(
        (said("Who?", "Write to a.b@example.com and c@example.org, née Müller."), said("ok"), said("no")),
        ([], said("Sure: AKIAIOSFODNN7EXAMPLE"), said("version 1.2.3.4 is out")),
        (said("plain"), said(""), []),
    )
    mended, counts, changed = redacted(given, KINDS)
    assert mended["prompt"].to_list()[0][1]["content"] == "Write to [EMAIL] and [EMAIL], née Müller."
    assert mended["chosen"].to_list()[1][0]["content"] == "Sure: [SECRET]"
    assert dict(counts) == {"email": 2, "secret": 1}  # kinds that are not there are not counted as 0
    assert changed.tolist() == [True, True, False]
    assert mended.schema == given.schema
    assert mended["rejected"].to_list() == given["rejected"].to_list()
    assert mended.row(2) == given.row(2)
    assert mended["prompt"].to_list()[1] == []


def test_a_table_without_any_is_the_same():
    given = table((said("plain"), said("a"), said("b")))
    mended, counts, changed = redacted(given, KINDS)
    assert mended.equals(given)
    assert not counts
    assert not changed.any()
