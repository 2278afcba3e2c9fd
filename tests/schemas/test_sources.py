"""What a recipe may say of the weights of its sources."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.data import ValidateCommand
from schemas.errors import Refusal
from schemas.load import validated

TWO = [{"path": "a.jsonl", "weight": 2}, {"path": "b.jsonl", "weight": 1}]


def data(**fields: Any) -> Any:
    return validated(ValidateCommand, {"data": {"preferences": TWO} | fields}, "recipe").data


def test_weights_are_shares_of_rows_unless_said():
    assert data().weights.by == "rows"
    assert data(weights={"by": "tokens"}).weights.tokenizer is None
    assert data(weights={"by": "tokens", "tokenizer": "model"}).weights.tokenizer == "model"


@pytest.mark.parametrize(
    ("fields", "where", "found"),
    [
        ({"weights": {"by": "words"}}, "data.weights.by", "'words'"),
        ({"weights": {"tokenizer": "model"}}, "data.weights.tokenizer", "'model' beside by: rows"),
        ({"weights": {"by": "tokens"}, "preferences": ["a.jsonl", "b.jsonl"]}, "data.weights.by", "no source with a weight"),
        ({"preferences": [TWO[0], "b.jsonl"]}, "data.preferences", "1 of 2 sources with a weight"),
        ({"corpus": TWO}, "data.corpus", "a weight"),
    ],
)
def test_weights_that_mean_nothing_are_refused(fields: dict[str, Any], where: str, found: str) -> None:
    with pytest.raises(Refusal) as refusal:
        data(**fields)
    assert (refusal.value.where, found in refusal.value.found) == (where, True)
    assert refusal.value.remedy
