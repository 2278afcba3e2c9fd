"""Fields of a kind that a section is not of any more."""

from __future__ import annotations

import pytest

from schemas.recipe import Recipe
from schemas.union_members import without_leftovers


def cleaned(**sections) -> dict:
    return without_leftovers(sections, Recipe)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"model": {"source": "hub", "name": "a/b", "layers": 2}}, {"model": {"source": "hub", "name": "a/b"}}),
        ({"alignment": {"algorithm": "dpo", "beta": 0.3, "clip": 0.2}}, {"alignment": {"algorithm": "dpo", "beta": 0.3}}),
        ({"alignment": {"algorithm": "none", "beta": 0.3}}, {"alignment": {"algorithm": "none"}}),
        ({"alignment": {"beta": 0.3}}, {"alignment": {}}),  # none is what it is without a name
        ({"sft": {"peft": {"method": "ia3", "r": 8, "alpha": 16}}}, {"sft": {"peft": {"method": "ia3"}}}),
        (
            {"alignment": {"algorithm": "ppo", "peft": {"method": "bitfit", "r": 8}, "loss": "ipo"}},
            {"alignment": {"algorithm": "ppo", "peft": {"method": "bitfit"}}},
        ),
    ],
)
def test_fields_that_only_another_kind_has_go(given, left):
    assert cleaned(**given) == left


@pytest.mark.parametrize(
    "document",
    [
        {"sft": {"peft": {"method": "ia3", "rank": 8}}},  # no kind has it
        {"sft": {"peft": {"method": "lorra", "r": 8}}},
        {"sft": {"peft": {"r": 8}}},
        {"data": {"corpus": ["a.jsonl", {"path": "b.jsonl", "weight": 2}]}},
        {"sft": 3, "model": None, "nonsense": {"a": [1]}},
    ],
)
def test_what_is_unknown_stays_to_be_refused(document):
    assert cleaned(**document) == document
