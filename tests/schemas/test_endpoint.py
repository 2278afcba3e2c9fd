"""Endpoints in a recipe: what may be written there, and where a refusal points."""

from __future__ import annotations

import pytest

from schemas.errors import Refusal
from schemas.load import validate_recipe


def recipe(**judge):
    document = {
        "name": "judged", "model": {"source": "local", "path": "m"}, "data": {"preferences": "p"},
        "alignment": {"algorithm": "dpo"},
        "evaluation": {"judge": {"source": "endpoint", "url": "https://api.example.com/v1", "model": "m", **judge}},
    }  # fmt: skip
    return validate_recipe(document, "test")


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"url": "http://localhost:8000/v1"}, "evaluation.judge.url"),
        ({"url": "ftp://localhost/v1", "allow_http": True}, "evaluation.judge.url"),
        ({"url": "https:///v1"}, "evaluation.judge.url"),
        ({"url": "https://host:port/v1"}, "evaluation.judge.url"),
        ({"url": "https://me@host/v1"}, "evaluation.judge.url"),
        ({"url": "https://host/v1?model=m"}, "evaluation.judge.url"),
        ({"url": "https://host/v 1"}, "evaluation.judge.url"),
        ({"key": "correct-horse-battery"}, "evaluation.judge.key"),
        ({"key": "sk-" + "a" * 40}, "evaluation.judge.key"),
        ({"key": "block://../x"}, "evaluation.judge.key"),
        ({"mode": "listwise"}, "evaluation.judge.mode"),
        ({"retries": 1000}, "evaluation.judge.retries"),
        ({"max_calls": 0}, "evaluation.judge.max_calls"),
    ],
)
def test_what_is_no_endpoint_is_refused_at_its_field_and_no_key_is_shown(given, where):
    with pytest.raises(Refusal) as refused:
        recipe(**given)
    assert refused.value.where == where
    assert "correct-horse" not in str(refused.value)
    assert "aaaa" not in str(refused.value)


@pytest.mark.parametrize("key", [None, "${JUDGE_KEY}", "block://judge-key"])
def test_a_key_is_named_and_not_written(key):
    assert recipe(key=key).evaluation.judge.key == key


def test_gates_on_the_judge_need_what_they_measure():
    gates = {"judge_agreement": {"lower_bound_above": 0.5}, "judge_consistency": {"min": 0.6}}
    document = recipe().document
    document["evaluation"]["gates"] = gates
    assert validate_recipe(document, "test").evaluation.gates.given().keys() == gates.keys()
    document["evaluation"]["judge"] |= {"mode": "pointwise"}
    with pytest.raises(Refusal, match=r"evaluation\.gates\.judge_consistency"):
        validate_recipe(document, "test")
