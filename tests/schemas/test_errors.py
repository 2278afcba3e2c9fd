"""A refusal reads well, and survives the way between processes."""

from __future__ import annotations

import pickle

import pytest

from schemas.errors import Refusal, closest

PARTS = {"where": "sft.epochs", "found": "0", "allowed": "at least 1", "remedy": "raise it"}


def test_a_refusal_prints_place_cause_and_way_out():
    assert str(Refusal(**PARTS)) == "sft.epochs: found 0\n  allowed: at least 1\n  remedy:  raise it"


def test_a_refusal_keeps_its_parts_through_pickle():
    """Prefect and multiprocessing pickle exceptions; one that took a single message would fail to load."""
    again = pickle.loads(pickle.dumps(Refusal(**PARTS)))
    assert again.parts == PARTS
    assert str(again) == str(Refusal(**PARTS))


@pytest.mark.parametrize(
    ("word", "guess"),
    [("epoch", "epochs"), ("learning_rat", "learning_rate"), ("zzz", None), ("", None)],
)
def test_closest(word, guess):
    assert closest(word, ["epochs", "learning_rate", "batch_size"]) == guess


def test_closest_takes_an_iterator_and_nothing_from_nothing():
    assert closest("epoch", iter(["epochs"])) == "epochs"
    assert closest("epoch", []) is None
