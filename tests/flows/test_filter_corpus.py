"""The flow of the corpus filter alone against a real server: the result is that of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.filter_corpus import filter_corpus
from posttrain.data.sources import resolve
from posttrain.filters.corpus import filter_corpus as run
from schemas.filtering import Filtering

WORDS = ["the river", "was high", "that week", "and we", "have to", "wait for", "a boat"]
FILTERING = Filtering.model_validate({"preset": "gopher", "rules": {"words": {"min": 10}}, "dedup": {"near": "14x8"}})
OVERRIDES = ["filtering.rules.words.min=10", "filtering.dedup.near=14x8"]


@pytest.fixture
def data(tmp_path: Path) -> str:
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(3):
        texts = [f"{' '.join(WORDS)} {number} times {part}. " * (number % 3) + "Then it came." for number in range(30)]
        (folder / f"{part}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return str(folder)


def test_the_flow_writes_what_the_function_writes(prefect_url, data: str, tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        state = filter_corpus(data, str(tmp_path / "flow"), overrides=OVERRIDES, return_state=True)
        assert state.is_completed(), state
    run(resolve(data, "data", tmp_path), FILTERING, 0.1, tmp_path / "function")
    for name in ("kept", "rejected", "quarantine"):
        files = [tmp_path / which / f"{name}.parquet" for which in ("flow", "function")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert "<svg" in (tmp_path / "flow" / "report.html").read_text()


def test_a_refusal_is_the_state_of_the_run(prefect_url, data: str, tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        state = filter_corpus(data, str(tmp_path / "out"), overrides=["filtering.rules.words.min=1000000"], return_state=True)
    assert state.is_failed()
    assert "none kept" in str(state.message)
