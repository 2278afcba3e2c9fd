"""Which documents pretraining reads first, and which last."""

from __future__ import annotations

import polars as pl

from posttrain.training.pretrain import phases


def test_the_annealing_tail_comes_last() -> None:
    documents = pl.DataFrame({"text": ["a", "b", "c", "d"], "phase": ["main", "anneal", None, "anneal"]})
    assert phases(documents) == (["a", "c"], ["b", "d"])


def test_a_corpus_without_a_mixture_has_no_tail() -> None:
    for documents in (pl.DataFrame({"text": ["a", "b"]}), pl.DataFrame({"text": ["a", "b"], "phase": [None, None]})):
        assert phases(documents) == (["a", "b"], [])
