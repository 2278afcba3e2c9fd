"""The page of a filter run: documents next to limits, clusters, counts by source, and no markup out of a document."""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase

import pytest

from posttrain.data.sources import SourceFile
from posttrain.filters.corpus import filter_corpus
from posttrain.filters.examples import borderline, clusters, groups
from posttrain.filters.report import write_report
from schemas.filtering import Filtering

WORDS = [letter * 4 for letter in ascii_lowercase]
FILTERING = Filtering.model_validate({"preset": "none", "rules": {"words": {"min": 4}}, "dedup": {"near": "14x8"}})


def line(text: str) -> str:
    return json.dumps({"text": text})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Texts of 2 to 7 words, and three near-copies of a long one, in two files."""
    long = " ".join(f"{word}{number}" for number in range(20) for word in WORDS)
    (tmp_path / "a.jsonl").write_text("\n".join(line(" ".join(WORDS[at : at + at])) for at in range(2, 8)))
    (tmp_path / "b.jsonl").write_text("\n".join(line(f"<script>{number}</script> {long}") for number in range(4)))
    files = [SourceFile(name, str(tmp_path / name)) for name in ("a.jsonl", "b.jsonl")]
    filter_corpus(files, FILTERING, 0.1, tmp_path / "out")
    return tmp_path / "out"


def test_the_documents_next_to_a_limit_are_shown(folder: Path) -> None:
    (found,) = borderline(folder, FILTERING.resolved())
    assert found.rule == "words ≥ 4"
    assert [row["value"] for row in found.inside] == [4, 5]
    assert [row["value"] for row in found.outside] == [3, 2]


def test_a_cluster_has_the_kept_document_and_those_like_it(folder: Path) -> None:
    (found,) = clusters(folder)
    assert (found.size, found.kept["id"]) == (3, "b.jsonl:1")
    assert all(0.9 < row["value"] < 1 for row in found.members)


def test_documents_are_counted_by_source(folder: Path) -> None:
    found = groups(folder)["Source"]
    assert [(group.name, group.kept, group.rejected) for group in found] == [("a.jsonl", 4, 2), ("b.jsonl", 1, 3)]


def test_the_page_holds_all_of_it_and_is_the_same_each_time(folder: Path) -> None:
    page = write_report(folder).read_text()
    assert "words ≥ 4" in page
    assert "3 removed" in page
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert write_report(folder).read_text() == page
