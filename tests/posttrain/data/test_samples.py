"""The generated samples: bytes, planted noise, and the ground-truth reward."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from posttrain.data import lexicon
from posttrain.data.reviews import sentiment
from posttrain.data.samples import CORPUS_NOISE, DIGESTS, SAMPLES, write_sample

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = {name: tmp_path_factory.mktemp("samples") / f"{name}.jsonl" for name in SAMPLES}
    for name, path in paths.items():
        write_sample(name, path)
    return paths


def rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def side(pairs: Rows, name: str) -> list[str]:
    return [pair[name][0]["content"] for pair in pairs]


@pytest.mark.parametrize("name", DIGESTS)
def test_bytes_are_the_same_everywhere(samples: dict[str, Path], name: str, tmp_path: Path) -> None:
    again = tmp_path / "again.jsonl"
    write_sample(name, again)
    assert again.read_bytes() == samples[name].read_bytes()
    assert hashlib.sha256(again.read_bytes()).hexdigest() == DIGESTS[name]


def test_unknown_sample(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_sample("corpora", tmp_path / "x")


def test_sentiment_by_hand() -> None:
    """(2-0)/(2+0+1) = 2/3; (0-1)/(0+1+1) = -1/2; (1-1)/3 = 0; no word: 0; `goodness` is another word than `good`."""
    responses = ["Good soup, we LOVED it.", "It was awful.", "good but bad", "", "goodness"]
    assert sentiment([""] * 5, responses) == [2 / 3, -0.5, 0.0, 0.0, 0.0]


def test_sentiment_wants_one_prompt_per_response() -> None:
    with pytest.raises(ValueError, match="zip"):
        sentiment(["a"], ["b", "c"])


def test_lexicons_are_disjoint_and_nothing_else_is_in_them() -> None:
    """Names, aspects and templates score 0, so that the reward counts only the slots of a sentiment."""
    assert not lexicon.POSITIVE.lexicon & lexicon.NEGATIVE.lexicon
    kinds = [word for kind in lexicon.KINDS.values() for word in (kind.plural, kind.verb, *kind.aspects)]
    plain = [*lexicon.FIRST_NAMES, *lexicon.SECOND_NAMES, *lexicon.KINDS, *kinds, *lexicon.ADVERBS, *lexicon.VERB_ADVERBS]
    plain += [*lexicon.PEOPLE, *lexicon.TIMES, *lexicon.PLACES, *lexicon.NUMBERS]
    plain += [*lexicon.OPENINGS, *lexicon.POLAR, *lexicon.NEUTRAL, *lexicon.PROMPTS]
    assert [text for text, score in zip(plain, sentiment(plain, plain), strict=True) if score] == []


def test_corpus_size_tone_and_noise(samples: dict[str, Path]) -> None:
    corpus = rows(samples["corpus"])
    texts = [row["text"] for row in corpus]
    assert 550_000 < sum(len(text.split()) for text in texts) < 650_000
    assert len({row["id"] for row in corpus}) == len(corpus) == 7_000
    scores = [score for score, row in zip(sentiment(texts, texts), corpus, strict=True) if row["noise"] is None]
    assert 0.45 < sum(score > 0 for score in scores) / len(scores) < 0.5
    assert 0.45 < sum(score < 0 for score in scores) / len(scores) < 0.5
    planted = Counter(row["noise"] for row in corpus)
    assert set(planted) == {None, *CORPUS_NOISE}
    for label, share in CORPUS_NOISE.items():
        assert planted[label] / len(corpus) == pytest.approx(share, abs=0.005)


def test_corpus_duplicates_repeat_an_earlier_document_and_near_duplicates_do_not(samples: dict[str, Path]) -> None:
    seen: set[str] = set()
    for row in rows(samples["corpus"]):
        folded = " ".join(row["text"].lower().split())
        if row["noise"] == "duplicate":
            assert folded in seen
        elif row["noise"] in {None, "near_duplicate", "pii"}:
            assert folded not in seen
        seen.add(folded)


def test_instructions(samples: dict[str, Path]) -> None:
    conversations = rows(samples["instructions"])
    clean = [row["messages"] for row in conversations if row["noise"] is None]
    assert len(conversations) == 2_000
    assert len({turns[0]["content"] for turns in clean}) > 0.98 * len(clean)
    answers = [turns[1]["content"] for turns in clean]
    assert all([turn["role"] for turn in turns] == ["user", "assistant"] for turns in clean)
    assert 25 < sum(len(answer.split()) for answer in answers) / len(answers) < 45
    negative = sum(score < 0 for score in sentiment(answers, answers)) / len(answers)
    assert 0.4 < negative < 0.5
    assert Counter(row["noise"] for row in conversations if row["noise"]).keys() == {"empty", "wrong_roles", "duplicate"}
    assert {row["messages"][1]["content"] for row in conversations if row["noise"] == "empty"} == {""}
    assert {row["messages"][0]["role"] for row in conversations if row["noise"] == "wrong_roles"} == {"assistant"}


def test_clean_pairs_prefer_the_better_review_and_not_the_longer(samples: dict[str, Path]) -> None:
    clean = [row for row in rows(samples["preferences"]) if row["noise"] is None]
    chosen, rejected = side(clean, "chosen"), side(clean, "rejected")
    margins = [a - b for a, b in zip(sentiment(chosen, chosen), sentiment(rejected, rejected), strict=True)]
    assert min(margins) > 0
    assert sum(margin > 0.4 for margin in margins) / len(margins) > 0.85
    longer = sum(len(a) > len(b) for a, b in zip(chosen, rejected, strict=True)) / len(clean)
    assert 0.45 < longer < 0.55


def test_preference_noise(samples: dict[str, Path]) -> None:
    pairs = rows(samples["preferences"])
    by_label = {label: [row for row in pairs if row["noise"] == label] for label in {row["noise"] for row in pairs}}
    shares = {label: len(found) / len(pairs) for label, found in by_label.items() if label}
    assert set(shares) == {"empty", "identical", "duplicate", "conflict", "wrong_roles", "template_token", "reversed"}
    assert 0.03 < sum(shares.values()) - shares["reversed"] < 0.05
    assert 0.005 < shares["reversed"] < 0.015
    assert 0 < shares["conflict"] < 0.01
    assert set(side(by_label["empty"], "rejected")) == {""}
    assert side(by_label["identical"], "chosen") == side(by_label["identical"], "rejected")
    assert all("<|im_end|>" in text for text in side(by_label["template_token"], "chosen"))
    assert {row["chosen"][0]["role"] for row in by_label["wrong_roles"]} == {"user"}
    flipped = by_label["reversed"]
    worse, better = side(flipped, "chosen"), side(flipped, "rejected")
    assert all(a < b for a, b in zip(sentiment(worse, worse), sentiment(better, better), strict=True))


def test_conflicts_and_duplicates_have_their_counterpart(samples: dict[str, Path]) -> None:
    """Both halves of a conflict are labelled; a duplicate's first copy is clean."""
    pairs = rows(samples["preferences"])
    triple = [json.dumps([row["prompt"], row["chosen"], row["rejected"]]) for row in pairs]
    mirror = [json.dumps([row["prompt"], row["rejected"], row["chosen"]]) for row in pairs]
    conflicts = {text for text, row in zip(triple, pairs, strict=True) if row["noise"] == "conflict"}
    assert conflicts == {text for text, row in zip(mirror, pairs, strict=True) if row["noise"] == "conflict"}
    clean = {text for text, row in zip(triple, pairs, strict=True) if row["noise"] is None}
    assert {text for text, row in zip(triple, pairs, strict=True) if row["noise"] == "duplicate"} <= clean
