"""The kernels compute what plain Python does, on random Unicode: metrics, dropped lines, folded texts, MinHash bands."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data import split
from posttrain.filters import metrics, plain
from posttrain.filters.kernels.bins import count_between
from posttrain.filters.metrics import METRICS
from posttrain.text import plain as plain_text
from posttrain.text.buffers import Buffers, buffers
from posttrain.text.kernels import folding
from posttrain.text.kernels.compiling import COMPILED
from posttrain.text.near import band_hashes
from schemas.filter_rules import LineRules

pytestmark = pytest.mark.skipif(not COMPILED, reason="numba does not work here, so there is nothing to compare")

PIECES = [
    "the", "The", "THAT", "to", "be", "x", "9", "ab", "_", "lorem ipsum", "LOREM Ipsum", "lorem  ipsum", "JavaScript",
    "uses cookies", "Privacy Policy", "#", "{", "...", "....", "…", ".", "?", "!", '"', "”", ")", "\u300d", "\u3002", "\uff1f",
    "\u061f", "\u0964", "\n", "\n\n", " ", "\t", "\r\n", "- ", "-", "* ", "•", "·", "\u1680", "\u205f", "\u3000", "\u2028",
    "\u200b", "\x1c", "\x85", "\x00", "你好", "世界", "العربية", "हिन्दी", "😀", "\U0001f469\u200d\U0001f467", "é", "e\u0301",
    "\u0301", "ß", "\u1e9e", "\u017f", "\ufb01", "İ", "ς", "Σ", "각", "\u1112\u1161\u11ab", "\u023a", "\U0001e900", "\U00010400",
    "one two three four five six", "a b c d e f g h i j k",
]  # fmt: skip
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.characters(exclude_categories=["Cs"])), max_size=80).map("".join)
spaced = st.lists(st.sampled_from(PIECES[:12]), max_size=80).map(" ".join)  # so that runs of words repeat
corpora = st.lists(st.one_of(texts, spaced), min_size=1, max_size=5)
checked = settings(max_examples=150, deadline=None)


def arrow(corpus: list[str]) -> Buffers:
    return buffers(pa.array(corpus, pa.large_string()))


@checked
@given(corpora)
def test_metrics(corpus: list[str]) -> None:
    for text, found in zip(corpus, metrics.measured(arrow(corpus)).tolist(), strict=True):
        assert dict(zip(METRICS, found, strict=True)) == pytest.approx(plain.measure(text), abs=1e-12), repr(text)


@st.composite
def line_rules(draw: st.DrawFn) -> LineRules:
    switches = {name: draw(st.booleans()) for name in LineRules.model_fields if name.startswith("drop_")}
    return LineRules(min_words=draw(st.sampled_from([None, 0, 3])), max_word_length=draw(st.sampled_from([None, 5])), **switches)


@checked
@given(corpora, line_rules())
def test_dropped_lines(corpus: list[str], rules: LineRules) -> None:
    kept, dropped = metrics.without_lines(arrow(corpus), rules)
    for at, text in enumerate(corpus):
        assert (kept.text(at), dropped[at].tolist()) == plain.drop_lines(text, metrics.line_limits(rules)), repr(text)


@checked
@given(corpora)
def test_folded_texts(corpus: list[str]) -> None:
    found = folding.fold(*arrow(corpus))
    assert found.texts() == [folding.folded(text) for text in corpus]
    lowered = [text.encode() for text in split.folded(pl.Series(corpus, dtype=pl.String))]
    assert [one for one, same in zip(found.texts(), found.lowered, strict=True) if same] == [
        one for one, same in zip(lowered, found.lowered, strict=True) if same
    ]


@settings(max_examples=40, deadline=None)
@given(corpora, st.sampled_from([(14, 8), (9, 13), (20, 13)]))
def test_bands(corpus: list[str], shape: tuple[int, int]) -> None:
    found = band_hashes(folding.fold(*arrow(corpus)), *shape)
    for text, hashes in zip(corpus, found, strict=True):
        assert hashes.tolist() == plain_text.bands(folding.folded(text), *shape).tolist(), repr(text)


def test_a_slice_of_an_array_is_measured_like_a_copy_of_it() -> None:
    """Arrow slices share their buffers: offsets do not start at 0."""
    corpus = ["not this", "The cat. The cat.", "é", "nor this"]
    some = buffers(pa.array(corpus, pa.large_string())[1:3])
    assert metrics.measured(some).tolist() == metrics.measured(arrow(corpus[1:3])).tolist()
    assert folding.fold(*some).texts() == [b"the cat. the cat.", "é".encode()]


def test_only_what_is_not_ascii_needs_the_table_of_code_points() -> None:
    folding.table.cache_clear()
    corpus = pa.array(["É", "The  CAT.", "sat", "É"], pa.large_string())
    assert folding.fold(*buffers(corpus[1:3])).texts() == [b"the cat.", b"sat"]
    assert folding.table.cache_info().currsize == 0
    assert folding.fold(*buffers(corpus[2:])).texts() == [b"sat", "é".encode()]
    assert folding.table.cache_info().currsize == folding.COMPILED


@checked
@given(st.lists(st.floats(-1, 30, width=16), max_size=60))
def test_numbers_in_bins(values: list[float]) -> None:
    """An edge belongs to the bin that it begins; what lies outside is in the outermost bins. Counts are added to."""
    edges, counts = np.array([0.0, 1.0, 2.5, 20.0]), np.full(3, 5)
    count_between(np.array(values), edges, counts)
    bins = [min(max(bisect_right([0.0, 1.0, 2.5, 20.0], value) - 1, 0), 2) for value in values]
    assert counts.tolist() == [5 + bins.count(at) for at in range(3)]
