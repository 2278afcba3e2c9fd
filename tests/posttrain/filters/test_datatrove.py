"""`filtering.variant: datatrove`, by values worked out from its sources (release 0.10.1)."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from posttrain.data.sources import SourceFile
from posttrain.filters.corpus import filter_corpus
from posttrain.filters.redecide import redecide
from schemas.errors import Refusal
from schemas.filter_rules import LineRules
from schemas.filtering import Filtering

pytest.importorskip("spacy", reason="the extra datatrove is not installed")
from posttrain.filters.datatrove import lines, metrics, words
from posttrain.filters.datatrove.words import Words
from posttrain.text.buffers import buffers

C4 = LineRules(
    min_words=3, max_word_length=1000, drop_unpunctuated=True, drop_ellipsis=True, drop_javascript=True, drop_policy=True
)


@pytest.fixture(scope="module")
def spacy_words() -> Words:
    return words.words()


@pytest.mark.parametrize(
    "text", ["I don't know, e.g. why: see https://a.org/x?y=1.\n\n  (It's $5.00!)", "«Où?» — 3kg\u2009of\u00a0it…", "", " \n "]
)
def test_words_are_spacys_whatever_is_remembered(spacy_words: Words, text: str) -> None:
    """The whole text taken apart by spaCy, without its tokens of white space; the second time every run is known."""
    import spacy

    expected = [token.text.strip() for token in spacy.blank("en")(text) if token.text.strip()]
    assert spacy_words.of(text) == spacy_words.of(text) == expected


@pytest.mark.parametrize("text", ["One. Two! Three?", "e.g. this. And 'that.' Then", "no end", "...", "A.  B", ""])
def test_sentences_are_spacys(spacy_words: Words, text: str) -> None:
    import spacy

    pipeline = spacy.blank("en")
    pipeline.add_pipe("sentencizer")
    assert spacy_words.sentences(text) == len([each for each in pipeline(text).sents if each.text.strip()])


def test_punctuation_is_no_word_but_counts_in_shares() -> None:
    """`The`, `end`, `.`, `#`: two words of 3 characters; half have a letter; `The` is no stop word; a `#` for four."""
    found = metrics.measured("The end. #", "gopher")
    assert (found["words"], found["mean_word_length"], found["alphabetic_word_share"]) == (2, 3, 0.5)
    assert (found["stop_words"], found["hash_per_word"]) == (0, 0.25)


def test_the_most_frequent_run_counts_even_if_it_occurs_once() -> None:
    """`a b` of `a b c` once: 3 of 5 characters. `x x` in `x x x x` three times, overlaps and all: 9 of 7."""
    assert metrics.measured("a b c", "gopher")["top_2gram_characters"] == pytest.approx(3 / 5)
    assert metrics.measured("x x x x", "gopher")["top_2gram_characters"] == pytest.approx(9 / 7)


def test_repeated_runs_are_taken_one_behind_the_other() -> None:
    """Runs of 5 in twelve `x`: the second repeats the first, then from the seventh word on again: two runs, ten letters."""
    assert metrics.greedy(["x"] * 12, 5) == 10
    assert metrics.greedy(list("abcdeabcde"), 5) == 5
    assert metrics.greedy(list("abcd"), 5) == 0


def test_repeated_lines_by_gopher_and_by_fineweb() -> None:
    """`ab`, ` `, `ab`: two of seven characters; FineWeb leaves the blank line out, and the two line breaks of the text."""
    text = "ab\n \nab"
    assert metrics.measured(text, "gopher")["duplicate_line_characters"] == pytest.approx(2 / 7)
    assert metrics.measured(text, "fineweb-code")["duplicate_line_characters"] == pytest.approx(2 / 5)


def test_lines_of_c4() -> None:
    page = lines.cleaned(
        "A good line [1] here.\nno end\nToo short.\nIt waits...\nUse Javascript { here.\nOur privacy policy is it.", C4
    )
    assert page.text == "A good line  here."
    assert page.dropped == [1, 0, 1, 1, 1, 1]
    assert (page.curly_brackets, page.lorem_ipsum, page.sentences) == (0, 0, 1)


def test_a_bracket_counts_before_the_policy_and_lorem_before_javascript() -> None:
    page = lines.cleaned("A cookie policy { is here.\nLorem ipsum of javascript here.", C4)
    assert (page.curly_brackets, page.lorem_ipsum) == (1, 1)


def test_without_rules_for_lines_a_text_stays_as_it_is() -> None:
    given = buffers(pa.array(["One line [1]\nTwo {.", ""], pa.large_string()))
    left, dropped, found = metrics.described(given, LineRules(), "gopher")
    assert left is given
    assert not dropped.any()
    assert found[0, metrics.METRICS.index("curly_brackets")] == 1


def test_a_run_decides_by_it_and_decides_again(tmp_path: Path) -> None:
    """By white space the text has three words; spaCy's `.` and `!` are no words either, but `do` and `n't` are two."""
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in ("We don't go.", "We do go!")))
    filtering = Filtering.model_validate({"preset": "none", "variant": "datatrove", "rules": {"words": {"min": 4}}})
    filter_corpus([SourceFile("x.jsonl", str(path))], filtering, 0.1, tmp_path / "out")
    assert pl.read_parquet(tmp_path / "out" / "kept.parquet")["text"].to_list() == ["We don't go."]
    looser = Filtering.model_validate({"preset": "none", "variant": "datatrove", "rules": {"words": {"min": 3}}})
    assert redecide(tmp_path / "out", looser, tmp_path / "again")["documents_kept"] == 2
    with pytest.raises(Refusal, match=r"filtering\.variant"):
        redecide(tmp_path / "out", Filtering(preset="none"), tmp_path / "other")
