"""Deciding again from metrics ends in the decisions that filtering anew would."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from posttrain.data.samples import write_sample
from posttrain.data.sources import SourceFile
from posttrain.filters.corpus import filter_corpus
from posttrain.filters.redecide import redecide
from schemas.errors import Refusal
from schemas.filtering import Filtering

BASE = {"preset": "gopher", "dedup": {"near": "14x8"}, "lines": {"drop_policy": True}}


def asked(**changes: object) -> Filtering:
    return Filtering.model_validate(BASE | changes)


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 1,500 documents of the sample, filtered; its file lies beside the folder."""
    folder = tmp_path_factory.mktemp("filtered")
    write_sample("corpus", folder / "all.jsonl")
    lines = (folder / "all.jsonl").read_text().splitlines()[:1_500]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    filter_corpus([SourceFile("corpus.jsonl", str(folder / "corpus.jsonl"))], asked(), 0.1, folder / "out")
    return folder


def decisions(out: Path) -> dict[str, tuple[list[str], str | None]]:
    """Reasons and the kept document that each document repeats."""
    rows = pl.read_parquet(out / "decisions.parquet").select("id", "reasons", "duplicate_of").rows()
    return {name: (why or [], of) for name, why, of in rows}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rules": {"words": {"min": 20}, "duplicate_10gram_characters": None}},
        {"rules": {"words": {"min": 70}, "stop_words": None}},
        {"preset": "none"},
        {"dedup": {"near": "14x8", "threshold": 0.9}},
        {"dedup": {"near": None, "exact": False}},
    ],
)
def test_it_decides_like_a_run_from_the_start(filtered: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    anew, again = tmp_path / "anew", tmp_path / "again"
    file = SourceFile("corpus.jsonl", str(filtered / "corpus.jsonl"))
    numbers = filter_corpus([file], asked(**changes), 0.1, anew)
    assert redecide(filtered / "out", asked(**changes), again).items() <= numbers.items()
    expected = {name: ([], None) for name in pl.read_parquet(anew / "kept.parquet")["id"]}
    rejected = pl.read_parquet(anew / "rejected.parquet").select("id", "reasons", "duplicate_of").rows()
    assert decisions(again) == expected | {name: (why, of) for name, why, of in rejected}
    told, found = (json.loads((out / "summary.json").read_text()) for out in (anew, again))
    assert found["reasons"] == told["reasons"]
    assert found["metrics"] == told["metrics"]
    assert found["lines_dropped"] == told["lines_dropped"]


def test_what_only_the_texts_can_tell_is_refused(filtered: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        redecide(filtered / "out", asked(lines={"min_words": 3}), tmp_path)
    assert caught.value.where == "filtering.lines"
    with pytest.raises(Refusal) as caught:
        redecide(filtered / "out", asked(dedup={"near": "9x13"}), tmp_path)
    assert caught.value.where == "filtering.dedup.near"


def test_nothing_kept_is_refused_and_leaves_nothing(filtered: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="none kept"):
        redecide(filtered / "out", asked(rules={"words": {"min": 90_000}}), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["kept.parquet", "summary.json"])
def test_a_folder_that_holds_no_result_is_refused(filtered: Path, tmp_path: Path, missing: str) -> None:
    for path in (filtered / "out").iterdir():
        if path.name != missing:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(Refusal, match="--from-metrics"):
        redecide(tmp_path, asked(), tmp_path / "again")
