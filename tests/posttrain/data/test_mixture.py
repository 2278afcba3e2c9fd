"""Weights decide how many rows or tokens of each source there are, never which split they are in."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from posttrain.data.mixture import BY_ROWS, Mixture
from posttrain.data.sources import SourceFile
from posttrain.data.validate import validate
from schemas.checks import Checks
from schemas.errors import Refusal
from schemas.sources import Weights


def table(**rows: tuple[int, int]) -> pl.DataFrame:
    """Of each source so many rows of train and of holdout."""
    parts = [
        {"source": f"{name}/x.jsonl", "row": at, "split": "train" if at <= train else "holdout"}
        for name, (train, held) in rows.items()
        for at in range(1, train + held + 1)
    ]
    return pl.DataFrame(parts)


class Mixed:
    """All rows of a table mixed, taken in two pieces."""

    def __init__(self, given: pl.DataFrame, files: list[SourceFile], weights: Weights = BY_ROWS) -> None:
        mixture = Mixture(files, weights)
        for part in (given.head(7), given.slice(7)):
            mixture.take(part)
        self.table = given.filter(pl.Series(mixture.drawn(np.ones(given.height, np.bool_)), dtype=pl.Boolean))
        self.left_out, self.summary = mixture.left_out, mixture.summary


mix = Mixed


def files(**weights: float | None) -> list[SourceFile]:
    return [SourceFile(f"{name}/x.jsonl", "", group=at, weight=weight) for at, (name, weight) in enumerate(weights.items())]


def counts(given: pl.DataFrame) -> dict[tuple[str, str], int]:
    return {(source[0], split): n for source, split, n in given.group_by("source", "split").len().iter_rows()}


def test_without_weights_all_rows_stay():
    given = table(a=(3, 1), b=(5, 0))
    found = mix(given, files(a=None, b=None))
    assert found.table.equals(given)
    assert (found.left_out, found.summary) == (0, {})


@pytest.mark.parametrize(
    ("weights", "train", "holdout"),
    [
        ((1, 1), (60, 60), (10, 10)),  # as many of the larger one as the smaller one has
        ((3, 1), (90, 30), (10, 3)),  # of a there are 90 and 10; a third of them of b
        ((1, 3), (20, 60), (3, 10)),
        ((0.03, 0.01), (90, 30), (10, 3)),
    ],
)
def test_the_scarcest_source_is_used_whole(weights, train, holdout):
    given = table(a=(90, 10), b=(60, 10))
    found = mix(given, files(a=weights[0], b=weights[1]))
    assert counts(found.table) == {
        ("a", "train"): train[0], ("b", "train"): train[1], ("a", "holdout"): holdout[0], ("b", "holdout"): holdout[1],
    }  # fmt: skip
    assert found.left_out == given.height - found.table.height
    assert found.summary["mixture"][0] == {"source": "a", "weight": weights[0], "rows": 100, "used": train[0] + holdout[0]}


def test_rows_keep_their_order_and_a_smaller_share_is_a_part_of_a_larger_one():
    given = table(a=(200, 0), b=(100, 0))
    small, large = (set(mix(given, files(a=weight, b=1)).table.filter(source="a/x.jsonl")["row"]) for weight in (0.2, 0.9))
    assert small < large
    found = mix(given, files(a=0.2, b=1)).table
    assert found["row"].to_list() == sorted(small) + list(range(1, 101))
    assert max(small) > 100  # not the first rows of the file


def test_a_source_without_a_row_in_a_split_takes_none_from_the_others():
    found = mix(table(a=(40, 4), b=(20, 0)), files(a=1, b=1))
    assert counts(found.table) == {("a", "train"): 20, ("b", "train"): 20, ("a", "holdout"): 4}


BY_TOKENS = Weights(by="tokens")


def with_texts(given: pl.DataFrame, **sizes: int) -> pl.DataFrame:
    """Prompts of so many characters by source, one of which takes two bytes, and two answers of twice as many."""
    prompts = ["é" + "x" * (sizes[source[0]] - 2) for source in given["source"]]
    return given.with_columns(prompt_text=pl.Series(prompts), chosen_text=pl.Series(prompts), rejected_text=pl.Series(prompts))


@pytest.mark.parametrize(
    ("weights", "a", "b"),
    [
        ((1, 1), 60, 20),  # 60 rows of 12 bytes · 3 are 9 tokens each, 540 in all; of b's 27 each as many are 20 rows
        ((3, 1), 60, 6),  # 180 of b's tokens are 6.7 rows
        ((1, 3), 60, 60),  # 1,620 is all of b
        ((1, 9), 20, 60),  # 180 of a's
    ],
)
def test_tokens_are_shared_by_weight(weights, a, b):
    given = with_texts(table(a=(60, 0), b=(60, 0)), a=12, b=36)
    found = mix(given, files(a=weights[0], b=weights[1]), BY_TOKENS)
    assert counts(found.table) == {("a", "train"): a, ("b", "train"): b}
    assert [(each["tokens"], each["tokens_used"]) for each in found.summary["mixture"]] == [(540, 9 * a), (1620, 27 * b)]
    assert found.table.equals(mix(given, files(a=weights[0], b=weights[1]), BY_TOKENS).table)


def test_a_row_that_is_more_than_the_share_is_used_all_the_same():
    given = with_texts(table(a=(1, 0), b=(3, 0)), a=8, b=4000)
    assert counts(mix(given, files(a=1, b=1), BY_TOKENS).table) == {("a", "train"): 1, ("b", "train"): 1}


def test_tokens_of_a_tokenizer(tmp_path):
    """By words: a row has 2 texts, of 2 words in a and of 5 in b. Bytes would say otherwise: a's words are long."""
    words = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = WhitespaceSplit()
    words.save(str(tmp_path / "tokenizer.json"))
    given = table(a=(50, 0), b=(50, 0))
    said = [{"a": "l" * 90 + " ong", "b": "a b c d e"}[source[0]] for source in given["source"]]
    given = given.with_columns(prompt_text=pl.Series(said), completion_text=pl.Series(said))
    for tokenizer in (tmp_path, tmp_path / "tokenizer.json"):
        found = mix(given, files(a=1, b=1), Weights(by="tokens", tokenizer=str(tokenizer)))
        assert counts(found.table) == {("a", "train"): 50, ("b", "train"): 20}  # 200 tokens of a, 500 of b
    assert counts(mix(given, files(a=1, b=1), BY_TOKENS).table) == {("a", "train"): 5, ("b", "train"): 50}  # 47 and 5 a row


def test_nothing_is_nothing():
    assert mix(table(a=(1, 0)).head(0), files(a=1, b=2)).table.height == 0


def test_sources_are_mixed_by_tokens_from_files_to_the_clean_table(tmp_path):
    """Rows of b have ten times the text of a's: one in ten of them is used, of both splits together within a row."""
    given = []
    for at, (name, size) in enumerate((("a", 40), ("b", 400))):
        lines = [json.dumps({"prompt": f"{n:05d}{name}", "chosen": "x" * size, "rejected": "y" * size}) for n in range(200)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        given.append(SourceFile(f"{name}.jsonl", str(tmp_path / f"{name}.jsonl"), group=at, weight=1))
    validate({"preferences": given}, Checks(), 0.3, tmp_path, weights=BY_TOKENS)
    summary = json.loads((tmp_path / "summary.json").read_text())["preferences"]
    assert [each["rows"] for each in summary["mixture"]] == [200, 200]
    assert summary["mixture"][0]["used"] == 200
    assert summary["mixture"][0]["tokens"] == 200 * -(-(6 + 80) // 4)
    assert summary["mixture"][0]["tokens"] - summary["mixture"][1]["tokens_used"] < 2 * 202
    assert summary["left_out_by_weight"] == 400 - summary["kept"]
    with pytest.raises(Refusal, match="nowhere"):
        validate({"preferences": given}, Checks(), 0.3, tmp_path, weights=Weights(by="tokens", tokenizer="nowhere"))
