"""Overlap with evaluation sets, at the lengths where it begins, and against sets of word tuples in plain Python."""

from __future__ import annotations

import random
import re

import pytest

from posttrain.text.overlap import EvaluationIndex

QUESTION = "A train leaves at noon and travels for three hours at forty miles per hour how far does it go"  # 20 words


def grams(text: str, length: int) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]


def words(start: int, count: int) -> str:
    return " ".join(QUESTION.split()[start : start + count])


@pytest.fixture(scope="module")
def index() -> EvaluationIndex:
    texts = [QUESTION, "one two three four five six seven eight nine", "a b c d e f g"]  # the last is too short to tell anything
    return EvaluationIndex.build((f"set.jsonl:{row}", text) for row, text in enumerate(texts, 1))


@pytest.mark.parametrize(
    ("text", "runs", "share"),
    [
        (f"Said: {words(3, 13)}!", 1, 13 / 14),
        (f"Said: {words(3, 12)}!", 0, 12 / 13),
        (f"Said: {words(3, 8)}!", 0, 8 / 9),
        (f"Said: {words(3, 7)}!", 0, 0),
        (words(0, 20).upper().replace(" ", ",\n"), 8, 1),
        ("one two three four five six seven eight nine", 1, 1),  # a whole example of nine words
        ("one two three four five six seven eight ten", 0, 8 / 9),
        ("a b c d e f g", 0, 0),  # an example too short to tell anything
        ("", 0, 0),
    ],
)
def test_where_it_begins(index: EvaluationIndex, text: str, runs: int, share: float) -> None:
    found = index.check_texts([text])
    assert (found.runs[0], found.share[0]) == (runs, pytest.approx(share))
    assert (found.example[0] >= 0) == (runs > 0)


def test_the_example_is_named(index: EvaluationIndex) -> None:
    found = index.check_texts(["x", "one two three four five six seven eight nine", words(2, 14)])
    assert [index.names[at] if at >= 0 else None for at in found.example] == [None, "set.jsonl:2", "set.jsonl:1"]


def test_languages_without_spaces() -> None:
    index = EvaluationIndex.build([("zh:1", "小明有三个苹果他又买了五个请问一共有几个苹果")])
    assert index.check_texts(["题目:小明有三个苹果他又买了五个请问", "小明有三个苹果。"]).runs.tolist() == [3, 0]


def test_it_is_written_and_read(index: EvaluationIndex, tmp_path) -> None:
    index.save(tmp_path / "index.npz")
    again = EvaluationIndex.load(tmp_path / "index.npz")
    texts = [words(0, 15), "one two three four five six seven eight nine"]
    assert again.names == index.names
    assert [part.tolist() for part in again.check_texts(texts)] == [part.tolist() for part in index.check_texts(texts)]


def test_no_examples_match_nothing() -> None:
    assert EvaluationIndex.build([]).check_texts([QUESTION]).runs.tolist() == [0]


def test_against_sets_of_tuples() -> None:
    """300 documents of few different words, so that many runs are shared by chance."""
    rng = random.Random(5)
    texts = [" ".join(rng.choices(["ab", "cd,", "ef.", "Gh"], k=rng.randint(0, 60))) for _ in range(300)]
    examples, documents = texts[:20], texts[20:]
    index = EvaluationIndex.build([(f"x:{at}", text) for at, text in enumerate(examples)], long=6, short=4)
    long = {gram for text in examples if len(grams(text, 1)) >= 6 for gram in grams(text, 6)}
    long |= {gram for text in examples for n in (4, 5) if len(grams(text, 1)) == n for gram in grams(text, n)}
    short = {gram for text in examples for gram in grams(text, 4)}
    found = index.check_texts(documents)
    for text, runs, share in zip(documents, found.runs, found.share, strict=True):
        assert runs == sum(gram in long for n in {len(gram) for gram in long} for gram in grams(text, n))
        covered = {at + k for at, gram in enumerate(grams(text, 4)) if gram in short for k in range(4)}
        assert share == pytest.approx(len(covered) / max(len(grams(text, 1)), 1))
