"""The planted noise of the sample corpus that metrics do not tell: personal data and other languages."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from posttrain.data.samples import write_sample
from posttrain.data.sources import SourceFile
from posttrain.filters.corpus import filter_corpus
from schemas.filtering import Filtering

ASKED = {"preset": "none", "language": {"keep": ["en"], "min_score": 0.5}, "personal": {"action": "drop"}}
REASON = {"pii": "personal_data > 0", "other_language": "language "}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str | None], dict[str, list[str]]]:
    """The noise of each document, and the reasons against each rejected one."""
    folder: Path = tmp_path_factory.mktemp("sample")
    write_sample("corpus", folder / "corpus.jsonl")
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    filter_corpus(
        [SourceFile("corpus.jsonl", str(folder / "corpus.jsonl"))], Filtering.model_validate(ASKED), 0.1, folder / "out"
    )
    rejected = pl.read_parquet(folder / "out" / "rejected.parquet")
    return {row["id"]: row["noise"] for row in rows}, dict(rejected.select("id", "reasons").iter_rows())


@pytest.mark.parametrize("kind", REASON)
def test_recall_and_precision(told: tuple[dict[str, str | None], dict[str, list[str]]], kind: str) -> None:
    noise, reasons = told
    planted = {name for name, label in noise.items() if label == kind}
    found = {name for name, why in reasons.items() if any(each.startswith(REASON[kind]) for each in why)}
    clean = {name for name, label in noise.items() if label is None}
    assert len(planted) > 100
    assert len(planted & found) >= 0.95 * len(planted)
    assert len(found & clean) <= 0.05 * len(found)
