"""Profiles of data, and distances between two of them, by hand."""

from __future__ import annotations

import json

import polars as pl
import pytest

from posttrain.data.profile import NAMED, OTHERS, drift, profile


def says(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def pairs(texts: list[str], sources: list[str]) -> pl.DataFrame:
    return pl.DataFrame({
        "prompt": [says("user", "a") for _ in texts], "chosen": [says("assistant", text) for text in texts],
        "rejected": [says("assistant", "b") for _ in texts], "source": sources,
    })  # fmt: skip


def test_shares_are_of_rows_by_source_length_and_language():
    """Rows of 3, 4, 5 and 10 words: powers of two below them are 2, 4, 4 and 8."""
    found = profile([pairs(["x", "x y", "x y z", "one two three four five six seven eight"], ["p", "p", "p", "q"])])
    assert found["sources"] == {"p": 0.75, "q": 0.25}
    assert found["lengths"] == {"2": 0.25, "4": 0.5, "8": 0.25}
    assert sum(found.get("languages", {"en": 1.0}).values()) == pytest.approx(1)


def test_languages_are_told_apart():
    pytest.importorskip("fasttext")
    german, english = "Das Wetter ist heute sehr schön und warm.", "The weather is very nice and warm today."
    found = profile([pairs([german] * 3 + [english], ["p"] * 4).drop("rejected")])
    assert found["languages"] == {"de": 0.75, "en": 0.25}


def test_drift_is_the_share_of_rows_that_would_have_to_change():
    ours = {"sources": {"p": 0.75, "q": 0.25}, "lengths": {"2": 1.0}}
    theirs = {"sources": {"p": 0.5, "r": 0.5}, "lengths": {"4": 1.0}, "languages": {"en": 1.0}}
    assert drift(ours, theirs) == {"drift_sources": 0.5, "drift_lengths": 1.0}
    assert drift(ours, ours) == {"drift_sources": 0.0, "drift_lengths": 0.0}


def test_a_profile_of_many_sources_stays_short():
    found = profile([pairs(["x"] * 200, [f"/data/{n}/{'long' * 40}.jsonl" for n in range(200)])])
    assert len(found["sources"]) == NAMED + 1
    assert found["sources"][OTHERS] == 0.875
    assert len(json.dumps(found)) < 4900
