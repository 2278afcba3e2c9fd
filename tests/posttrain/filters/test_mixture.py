"""Shares of tokens: met to within a document, by hand, alike in any order, and never by chance."""

from __future__ import annotations

import random
from typing import Any

import polars as pl
import pytest

from posttrain.filters.mixture import ANNEAL, MAIN, Sampler
from schemas.errors import Refusal
from schemas.filter_scores import Mixture


def documents(counts: dict[str, int], tokens: int = 10) -> pl.DataFrame:
    rng = random.Random(4)
    rows = [(group, f"{group}/a.jsonl", rng.randbytes(16), tokens) for group, count in counts.items() for _ in range(count)]
    return pl.DataFrame(rows, schema=["language", "source", "fingerprint", "tokens"], orient="row")


def kept(asked: dict[str, Any], rows: pl.DataFrame) -> pl.DataFrame:
    sampler = Sampler(Mixture.model_validate(asked))
    sampler.add(rows)
    sampler.settle()
    return rows.with_columns(sampler.phases(rows)).filter(pl.col("phase").is_not_null())


def tokens(rows: pl.DataFrame, *by: str) -> dict[Any, int]:
    return {key if len(key) > 1 else key[0]: part["tokens"].sum() for key, part in rows.partition_by(by, as_dict=True).items()}


def test_by_hand() -> None:
    """1,000 tokens of English at .8 allow 1,250 in all: 250 of the others, of which there are 500 and 500."""
    found = kept({"by": "language", "shares": {"en": 0.8, "*": 0.2}}, documents({"en": 100, "de": 50, "fr": 50}))
    assert tokens(found, "language")["en"] == 1_000
    assert 240 <= sum(tokens(found, "language").values()) - 1_000 <= 250


def test_the_tail_by_hand() -> None:
    """B tokens in all, a tenth of them a tail of German: en is .9 B = 900, so B = 1,000; German .1 B = 100 of 500."""
    asked = {"by": "language", "shares": {"en": 1}, "tail": {"share": 0.1, "shares": {"de": 1}}}
    found = kept(asked, documents({"en": 90, "de": 50}))
    assert tokens(found, "language", "phase") == {("en", MAIN): 900, ("de", ANNEAL): 100}


def test_by_source_and_what_no_group_takes() -> None:
    found = kept({"by": "source", "shares": {"web/*": 0.5, "books/*": 0.5}}, documents({"web": 30, "books": 10, "other": 10}))
    assert tokens(found, "source") == {"web/a.jsonl": 100, "books/a.jsonl": 100}


def test_order_and_batches_make_no_difference() -> None:
    rows, asked = documents({"en": 80, "de": 70}), {"by": "language", "shares": {"en": 0.3, "de": 0.7}}
    expected = kept(asked, rows)["fingerprint"].sort()
    shuffled = rows.sample(fraction=1, shuffle=True, seed=1)
    sampler = Sampler(Mixture.model_validate(asked))
    for at in range(0, shuffled.height, 7):
        sampler.add(shuffled[at : at + 7])
    sampler.settle()
    chosen = shuffled.with_columns(sampler.phases(shuffled)).filter(pl.col("phase").is_not_null())
    assert chosen["fingerprint"].sort().equals(expected)


def test_a_group_without_documents_is_refused() -> None:
    with pytest.raises(Refusal, match="a share for fr") as caught:
        kept({"by": "language", "shares": {"en": 0.5, "fr": 0.5}}, documents({"en": 5}))
    assert caught.value.where == "filtering.mixture.shares"


@pytest.mark.parametrize("shares", [{"en": 0.5}, {"en": 0.8, "de": 0.3}])
def test_shares_add_up_to_one(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="add up to"):
        Mixture.model_validate({"by": "language", "shares": shares})


def test_the_report_counts_tokens() -> None:
    sampler = Sampler(Mixture.model_validate({"by": "language", "shares": {"en": 0.5, "de": 0.5}}))
    sampler.add(documents({"en": 20, "de": 5}))
    sampler.settle()
    assert sampler.report()["de"] == {"tokens_there": 50, "tokens_kept": 50, "tokens_anneal": 0}
    assert sampler.report()["en"]["tokens_kept"] == 50
