"""Near-duplicates between training and held-out prompts: exactly the planted ones, whatever the order and the pieces."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from posttrain.data.checks import near_prompts
from posttrain.data.checks.near_prompts import NearPrompts
from posttrain.text.kernels import joins
from schemas.messages import MESSAGES

WORDS = [f"word{n}" for n in range(400)]


def sentence(seed: int, words: int = 30) -> list[str]:
    return list(np.random.default_rng(seed).choice(WORDS, words))


def rows(*given: tuple[str, str]) -> pl.DataFrame:
    """Rows of (prompt, split)."""
    asked = [[{"role": "user", "content": text, "extra": None}] for text, _ in given]
    table = pl.DataFrame(
        {"prompt": asked, "split": [split for _, split in given]}, schema={"prompt": MESSAGES, "split": pl.String}
    )
    return table.with_columns(key=pl.Series([text for text, _ in given], dtype=pl.String).hash())


def hits(*pieces: pl.DataFrame, least: float = 0.8) -> list[bool]:
    check = NearPrompts(least)
    for piece in pieces:
        check.take(piece)
    return [bool(hit) for hit in check.hits()["near_prompt"]]


def changed(words: list[str], *places: int) -> str:
    return " ".join("other" if at in places else word for at, word in enumerate(words))


def test_by_hand():
    """30 words have 26 5-grams. Another first word changes one: 25 of 27, 0.93. One in the middle changes five: 21 of 31."""
    one = sentence(0)
    held = (" ".join(one), "holdout")
    assert hits(rows(held, (changed(one, 0), "train"))) == [False, True]
    assert hits(rows(held, (changed(one, 0), "train")), least=25 / 27) == [False, True]
    assert hits(rows(held, (changed(one, 15), "train"))) == [False, False]
    assert hits(rows(held, (changed(one, 15), "train")), least=0.67) == [False, True]
    assert hits(rows(held, (" ".join(one[:29]) + " else", "train")), least=0.93) == [False, False]


@pytest.mark.parametrize("at_once", [1, 7, near_prompts.AT_ONCE])
def test_planted_rows_are_found_exactly_in_any_order_and_any_pieces(at_once, monkeypatch):
    """40 held-out prompts, of which 10 are nearly repeated by training rows among 200 others."""
    monkeypatch.setattr(near_prompts, "AT_ONCE", at_once)
    held = [(" ".join(sentence(n)), "holdout") for n in range(40)]
    planted = [(changed(sentence(n), 0), "train") for n in range(10)]
    clean = [(" ".join(sentence(1000 + n)), "train") for n in range(200)]
    whole = [*clean[:100], *held, *planted, *clean[100:]]
    order = np.random.default_rng(1).permutation(len(whole))
    shuffled = [whole[at] for at in order]
    expected = [140 <= at < 150 for at in order]
    assert hits(rows(*shuffled)) == expected
    assert hits(rows(*shuffled[:7]), rows(*shuffled[7:7]), rows(*shuffled[7:150]), rows(*shuffled[150:])) == expected


def test_one_held_out_prompt_that_is_near_enough_will_do_beside_others_that_are_not():
    """The training prompt has an index of 25/27 with the second held-out prompt, and of 21/31 with the others."""
    one = sentence(0)
    held = [(changed(one, place), "holdout") for place in (15, 0, 12)]
    assert hits(rows(*held, (" ".join(one), "train")), least=0.9) == [False, False, False, True]


@pytest.mark.parametrize("splits", [("train", "train"), ("holdout", "holdout"), ("holdout", "train")])
def test_only_training_rows_are_hit_and_only_by_held_out_ones(splits):
    one = sentence(0)
    expected = [False, splits == ("holdout", "train")]
    assert hits(rows((" ".join(one), splits[0]), (changed(one, 0), splits[1]))) == expected


def test_the_same_prompt_in_both_splits_is_another_checks_and_case_and_blanks_do_not_count():
    one = " ".join(sentence(0))
    assert hits(rows((one, "holdout"), (one, "train"))) == [False, False]
    assert hits(rows((one, "holdout"), (one.upper().replace(" ", "  "), "train"))) == [False, True]


def test_short_prompts_with_another_word_are_other_questions():
    """Seven words have three 5-grams: too few to say so. Eight have four."""
    assert hits(rows(("a b c d e f g h", "holdout"), ("a b c d e f  g h", "train"))) == [False, True]
    assert hits(rows(("a b c d e f g", "holdout"), ("a b c d e f  g ", "train"))) == [False, False]
    assert hits(rows(("", "holdout"), (" ", "train"))) == [False, False]
    assert hits(rows()) == []


def index_of(one: str, other: str) -> float:
    sets = [set(zip(*(words[at:] for at in range(5)), strict=False)) for words in (one.split(), other.split())]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("least", [0.5, 0.6, 0.8, 0.9, 1.0])
def test_exactly_the_pairs_of_that_index_are_found_within_large_families(least: float) -> None:
    """Three templates of 300 prompts each, with parts of their own at the end, at the start and in the middle."""
    random = np.random.default_rng(2)
    given = []
    for family in range(3):
        frame = sentence(family, 24)
        for _ in range(300):
            own = list(random.choice(WORDS[:6], random.integers(1, 5)))
            cut = (0, 12, 24)[family]
            given.append((" ".join([*frame[:cut], *own, *frame[cut:]]), "holdout" if random.random() < 0.3 else "train"))
    held = {text for text, split in given if split == "holdout"}
    expected = [
        split == "train" and text not in held and any(index_of(text, other) >= least for other in held) for text, split in given
    ]
    assert hits(rows(*given), least=least) == expected
    assert any(expected) == (least < 1)


def test_a_template_with_thousands_of_rows_takes_few_comparisons() -> None:
    """Of 300 training prompts each is like all of 300 held-out ones: the first that is compared decides."""
    compared = []
    real = joins.join
    start = " ".join(sentence(0, 200))
    held, train = ([(f"{start} {split}{n}", split) for n in range(300)] for split in ("holdout", "train"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joins, "join", lambda *given: compared.append(real(*given)))
        assert sum(hits(rows(*held, *train), least=0.8)) == 300
        assert sum(hits(rows(*held, *train), least=1.0)) == 0
    assert compared == [300, 0]


def test_a_set_is_compared_once_however_many_members_propose_it() -> None:
    """Eight words of 20 are others at the end: four known members of ten propose the same set, which is not like it."""
    compared = []
    real = joins.join
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joins, "join", lambda *given: compared.append(real(*given)))
        one = sentence(0, 20)
        assert hits(rows((" ".join(one), "holdout"), (changed(one, *range(12, 20)), "train")), least=0.4) == [False, False]
    assert compared == [1]


def test_members_that_share_all_counted_bits_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by two bits alone, everything is frequent."""
    monkeypatch.setattr(near_prompts, "FEWEST_BITS", 2)
    monkeypatch.setattr(near_prompts, "MOST_BITS", 2)
    test_exactly_the_pairs_of_that_index_are_found_within_large_families(0.6)


def test_sentences_out_of_three_words_take_few_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of their 5-grams is in many of them: 64 bits of each set tell most that are unlike, and none that is like."""
    compared = []
    real = joins.join
    monkeypatch.setattr(joins, "join", lambda *given: compared.append(real(*given)))
    random = np.random.default_rng(3)
    given = [(" ".join(random.choice(WORDS[:3], 20)), "train" if at % 4 else "holdout") for at in range(1200)]
    given += [(changed(text.split(), 0), "train") for text, _ in given[:100]]
    held = [text for text, split in given if split == "holdout"]
    expected = [split == "train" and any(index_of(text, other) >= 0.8 for other in held) for text, split in given]
    assert hits(rows(*given)) == expected
    assert sum(expected) >= 25
    assert compared[0] < 1000  # of 300,000 pairs, of which a rare member proposes 20,000


@pytest.mark.parametrize("bits", [0, 1, 1 << 63, 2**64 - 1, 0x0F0F_1234_5678_9ABC])
def test_bits_are_counted(bits: int) -> None:
    assert joins.ones(np.uint64(bits)) == bits.bit_count()


def test_each_member_turns_the_bit_of_its_lowest_six() -> None:
    assert joins.parity(np.array([0, 3, 64 + 5, 128], np.uint64)) == 0b101000
