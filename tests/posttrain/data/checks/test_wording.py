"""Scripts and languages of the parts of a row."""

# ruff: noqa: RUF001 - letters of other scripts are what is tested

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from posttrain.data.checks import wording
from posttrain.data.checks.wording import languages_wrong, scripts_differ
from posttrain.text.kernels.heads import NONE
from posttrain.text.language import UNKNOWN, Told, names

ENGLISH = "The hotel was clean and the staff was very kind to us."
OTHERS = {
    "Cyrillic": "Гостиница была чистой, а персонал был очень любезен с нами.",
    "Greek": "Το ξενοδοχείο ήταν καθαρό και το προσωπικό πολύ ευγενικό.",
    "Arabic": "كان الفندق نظيفا وكان الموظفون لطفاء جدا معنا في كل يوم.",
    "Han": "酒店很干净,员工对我们非常友好。",
    "Kana": "ホテルはとても清潔で、スタッフは親切でした。",
    "Hangul": "호텔은 깨끗했고 직원들은 우리에게 매우 친절했습니다.",
    "Devanagari": "होटल साफ था और कर्मचारी हमारे साथ बहुत दयालु थे।",
}
FRENCH = "L'hôtel était propre et le personnel a été très aimable avec nous."
GERMAN = "Das Hotel war sauber und das Personal war sehr freundlich zu uns."


def series(*texts: str | None) -> pl.Series:
    return pl.Series(texts, dtype=pl.String)


@pytest.mark.parametrize("name", OTHERS)
def test_an_answer_in_another_script_is_seen_on_either_side(name):
    other = OTHERS[name]
    found = scripts_differ([series(ENGLISH, ENGLISH, other, other), series(ENGLISH, other, other, ENGLISH)])
    assert found.tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    "answer",
    [FRENCH, "π ≈ 3.14159, ∑ x² = 17, α β γ", "42", "", None, "def f(x):\n    return x + 1  # naïve résumé",
     "He said «привет» to the staff, and then the hotel was clean again.", "🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉"],
)  # fmt: skip
def test_numbers_signs_names_and_quotations_are_in_no_other_script(answer):
    assert not scripts_differ([series(ENGLISH), series(answer)]).any()


@pytest.mark.parametrize(
    ("answer", "differs"),
    [("ж" * 20, True), ("ж" * 19, False), ("酒" * 5, True), ("酒" * 4, False), ("ж" * 12 + "a" * 8, True),
     ("ж" * 11 + "a" * 9, False)],
)  # fmt: skip
def test_how_many_letters_and_what_share_of_them_a_script_takes(answer, differs):
    """20 letters, 5 of a script whose signs are words or syllables, and 60%."""
    assert scripts_differ([series(ENGLISH), series(answer)]).tolist() == [differs]


def test_a_text_of_40_characters_has_a_language():
    long, short = GERMAN[:40], GERMAN[:38]
    assert len(long.strip()) == 40
    assert languages_wrong([series(ENGLISH, ENGLISH), series(long, short)], ["en"]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("code", "score", "wrong"),
    [("de", 0.6501, True), ("de", 0.6499, False), ("en", 1.0, False), ("de", 1.0, True), (UNKNOWN, 1.0, False)],
)
def test_a_language_is_one_of_which_the_model_is_sure_and_that_has_a_name(code, score, wrong, monkeypatch):
    """A score of 0.65 from 40 characters on, of which the blanks at the ends are none."""
    label = [*names(), UNKNOWN].index(code) if code != UNKNOWN else NONE
    monkeypatch.setattr(
        wording, "identify_texts",
        lambda texts: Told(np.full(texts.documents, label, np.int32), np.full(texts.documents, score, np.float32)),
    )  # fmt: skip
    given = series("x" * 40, "x" * 39, " " + "x" * 39 + "\n", None, " " + "x" * 40)
    assert languages_wrong([given], ["en"]).tolist() == [wrong, False, False, False, wrong]


def test_a_few_latin_letters_differ_from_no_script():
    others = series(*[OTHERS["Cyrillic"]] * 5)
    assert scripts_differ([others, series("42", "", None, "OK, yes.", ENGLISH)]).tolist() == [False] * 4 + [True]


def test_the_script_is_that_of_the_first_2000_characters():
    """Of 20 letters the last stands within them, or behind them."""
    within, behind = (" " * blanks + "ж" * 20 for blanks in (1980, 1981))
    assert scripts_differ([series(ENGLISH, ENGLISH), series(within, behind)]).tolist() == [True, False]


def test_half_and_half_is_in_none():
    """A translation has letters of both: neither has 60% of them."""
    assert not scripts_differ([series(ENGLISH), series(f"{ENGLISH[:40]} {OTHERS['Cyrillic'][:40]}")]).any()


def test_languages_that_are_not_allowed_are_found_in_every_part():
    prompts, answers = series(ENGLISH, ENGLISH, FRENCH, ENGLISH), series(ENGLISH, GERMAN, FRENCH, "Yes.")
    assert languages_wrong([prompts, answers], ["en"]).tolist() == [False, True, True, False]
    assert languages_wrong([prompts, answers], ["en", "fr"]).tolist() == [False, True, False, False]
    assert languages_wrong([prompts, answers], []).tolist() == [False, True, False, False]
