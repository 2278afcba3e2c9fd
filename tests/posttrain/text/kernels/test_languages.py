"""The kernel tells what fastText's own library does: the same language with the same score, to the last bit."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.text import language
from posttrain.text.buffers import buffers
from posttrain.text.kernels import heads
from posttrain.text.kernels.characters import flags
from posttrain.text.kernels.compiling import COMPILED
from posttrain.text.kernels.languages import languages
from posttrain.text.language import Language, identify, identify_all
from posttrain.text.language_model import loaded

pytestmark = [
    pytest.mark.skipif(not COMPILED, reason="numba does not work here, so there is nothing to compare"),
    pytest.mark.skipif(not language.is_installed(), reason="the extra `text` is not installed"),
]

PIECES = [
    "</s>",
    "__label__en",
    "__label__",
    "de",
    "la",
    "the",
    "Zug",
    "<",
    ">",
    "\x00",
    "\x1c",
    "\t",
    "ß",
    "Würde",
    "人人",
    "ऐसा",
    "😀",
    "²",
    "½",
    "É",
    "\u00a0ÉTÉ\u2003",
]
words = st.one_of(st.sampled_from(PIECES), st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
texts = st.lists(words, max_size=30).map(" ".join)


def by_kernel(given_texts: Sequence[str]) -> list[tuple[str, float]]:
    model, labels = language._model(), np.empty(len(given_texts), np.int32)
    scores = np.empty(len(given_texts), np.float32)
    given_buffers = buffers(pa.array(given_texts, pa.large_string()))
    languages(*given_buffers, model.model, labels, scores)
    return [(model.labels[at], float(score)) for at, score in zip(labels, scores, strict=True)]


def by_library(text: str) -> tuple[str, float]:
    labels, scores = language._library().predict(text)
    return labels[0].removeprefix("__label__"), float(scores[0])


@settings(max_examples=300, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4))
def test_random_texts(some: list[str]) -> None:
    some = [" ".join(text.split()) for text in some]  # a line break would end the text for the library
    assert by_kernel(some) == [by_library(text) for text in some]


def test_words_of_all_kinds_of_letters() -> None:
    draw = random.Random(0)
    alphabets = [range(97, 123), range(0xC0, 0x250), range(0x400, 0x460), range(0x4E00, 0x9000), range(0x905, 0x93A)]
    some = [
        " ".join("".join(chr(draw.choice(draw.choice(alphabets))) for _ in range(draw.randint(1, 9))) for _ in range(words))
        for words in range(1, 300)
    ]
    assert by_kernel(some) == [by_library(text) for text in some]


def test_words_that_come_again_have_the_same_vectors() -> None:
    """Of long words many: what was looked up for them is taken from where it is kept."""
    long_ones = ["internationalization", "Wissenschaftlerinnen", "непосредственно", "anticonstitutionnellement", "a" * 200]
    some = [" ".join([*long_ones[: count + 1], *long_ones[: count + 1]]) for count in range(len(long_ones))] * 2
    assert by_kernel(some) == [by_library(text) for text in some]


def plainly(text: str) -> Language:
    """`identify` in the words of its description, with the library."""
    begin = language._LETTER.search(text)
    if not begin:
        return Language(language.UNKNOWN, 0.0)
    for length in language.LENGTHS:
        head = " ".join(text[begin.start() : begin.start() + length].split())
        code, score = by_library(head.lower() if head.isupper() else head)
        if score >= language.SURE or len(text) <= begin.start() + length:
            break
    return Language(code, min(score, 1.0))


shouted = texts.map(str.upper)
long = st.one_of(texts.map(lambda text: f"1. {text.upper() * 9}{text}"), shouted.map(lambda text: text * 9))


@pytest.mark.parametrize(
    ("text", "label"),
    [("", heads.NONE), (" 12_\u00a0", heads.NONE), ("² is it", heads.OTHERWISE), ("ÉTÉ", heads.OTHERWISE),
     ("ÉTé", heads.OTHERWISE), ("É a", 0), ("ABC", 0), ("a²", 0), ("A" * 201 + "É", heads.OTHERWISE),
     ("A" * 201 + "É a", heads.OTHERWISE), ("a" * 199 + "É" * 700, 0)],
)  # fmt: skip
def test_which_texts_the_kernel_leaves_to_python(text: str, label: int) -> None:
    """Those of which ASCII's letters do not tell whether all are capitals, and those with a sign that may count as a letter."""
    model, labels, scores = language._model().model, np.empty(1, np.int32), np.empty(1, np.float32)
    given_buffers = buffers(pa.array([text], pa.large_string()))
    heads.languages(*given_buffers, flags(), *language.LENGTHS, language.SURE, model, labels, scores)
    assert min(labels[0], 0) == label
    assert (scores[0] > 0) == (label == 0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(texts, shouted, long), max_size=5))
def test_what_is_looked_at(some: list[str]) -> None:
    expected = [plainly(text) for text in some]
    assert list(map(Language, *identify_all(some))) == expected
    assert [identify(text) for text in some] == expected


def test_only_a_model_of_this_kind_is_read() -> None:
    data = language._file().read_bytes()
    with pytest.raises(ValueError, match="fastText"):
        loaded(b"\0" + data[1:])
    with pytest.raises(ValueError, match="tree"):
        loaded(data[:32] + b"\x03" + data[33:])  # a softmax over the labels
