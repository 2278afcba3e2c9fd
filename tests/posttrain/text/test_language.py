"""Languages by article 1 of the Universal Declaration of Human Rights (public domain), and what has none."""

# ruff: noqa: RUF001 - letters of other scripts are what is tested

from __future__ import annotations

import pytest

from posttrain.text import language
from posttrain.text.language import LENGTHS, UNKNOWN, identify, identify_all, languages
from schemas.errors import Refusal

ARTICLE = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "zh": "人人生而自由，在尊严和权利上一律平等。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
}


@pytest.mark.parametrize("code", ARTICLE)
def test_it_is_told(code: str) -> None:
    found = identify(ARTICLE[code])
    assert found.code == code
    assert 0.5 < found.score <= 1
    assert code in languages()


def test_lines_and_capitals_make_no_difference() -> None:
    assert identify("\n\n  " + ARTICLE["en"].upper().replace(" ", "\n")).code == "en"


@pytest.mark.parametrize("text", ["", " \n", "1234 5678 !!", "— … ★"])
def test_what_has_no_letter_has_no_language(text: str) -> None:
    assert identify(text) == (UNKNOWN, 0.0)


def test_it_is_read_from_the_first_letter() -> None:
    assert identify("12/34 56:78 " * 400 + ARTICLE["de"]).code == "de"


def test_more_is_read_where_the_beginning_does_not_tell() -> None:
    """Names fill the first 200 characters and are no French."""
    head = "Zxq Kmwn Brrt " * 15
    assert len(head) > LENGTHS[0]
    assert identify(head).code != "fr"
    assert identify(head + ARTICLE["fr"] * 8).code == "fr"


def test_all_at_once() -> None:
    codes, scores = identify_all(ARTICLE.values())
    assert codes == list(ARTICLE)
    assert scores == [identify(text).score for text in ARTICLE.values()]


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refusal, match=r"posttrain\[text\]") as caught:
        language.require("filtering.language")
    assert caught.value.where == "filtering.language"


def test_another_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """All machines must tell alike, and the file is read by compiled code."""
    monkeypatch.setattr(language, "_DIGEST", "0" * 64)
    with pytest.raises(Refusal, match=r"lid\.176\.ftz"):
        language._file()
