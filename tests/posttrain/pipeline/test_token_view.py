"""Tokens of rows under a tokenizer, counted as encoding counts them."""

from __future__ import annotations

import polars as pl
import pytest

from posttrain.pipeline.token_view import token_view, tokenizer_of
from schemas.errors import Refusal


def said(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def pairs(count: int) -> pl.LazyFrame:
    rows = [
        {"prompt": said("user", "how?"), "chosen": said("assistant", "so " * (n + 1)), "rejected": said("assistant", "no")}
        for n in range(count)
    ]
    return pl.DataFrame(rows).lazy()


def test_lengths_are_of_the_prompt_and_the_longer_answer(tokenizer):
    found = token_view(pairs(4), tokenizer, 10, "pairs")
    whole = [
        len(tokenizer.apply_chat_template([*row["prompt"], *row["chosen"]], tokenize=True, return_dict=False))
        for row in pairs(4).collect().to_dicts()
    ]
    assert (found["rows"], found["measured"], found["max"]) == (4, 4, max(whole))
    assert found["mean"] == pytest.approx(sum(whole) / 4, abs=0.051)
    assert found["over_limit_share"] == sum(each > 10 for each in whole) / 4
    assert sum(found["histogram"]["tokens"]) == 4


def test_some_rows_stand_for_many(tokenizer, monkeypatch):
    monkeypatch.setattr("posttrain.pipeline.token_view.MEASURED", 5)
    found = token_view(pairs(23), tokenizer, 10, "pairs")
    assert (found["rows"], found["measured"]) == (23, 5)


def test_prompts_alone_and_nothing(tokenizer):
    prompts = pairs(3).select("prompt")
    assert token_view(prompts, tokenizer, 1, "prompts")["over_limit_share"] == 1
    assert token_view(prompts.head(0), tokenizer, 1, "prompts")["mean"] is None


def test_a_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(Refusal, match="a checkpoint that cannot be loaded"):
        tokenizer_of(str(tmp_path), "--model")
