"""Scripts by hand: 5 Latin letters, 3 Cyrillic, 2 Chinese beside 2 kana."""

from __future__ import annotations

import pytest

from posttrain.text.scripts import script, scripts


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("hello мир", {"Latin": 5 / 8, "Cyrillic": 3 / 8}),
        ("漢字かな abc", {"Kana": 4 / 7, "Latin": 3 / 7}),
        ("漢字", {"Han": 1.0}),
        ("Ελλάδα!", {"Greek": 1.0}),
        ("12 😀 ...", {}),
        ("", {}),
    ],
)
def test_shares(text: str, shares: dict[str, float]) -> None:
    assert scripts(text) == pytest.approx(shares)
    assert script(text) == next(iter(shares), None)


@pytest.mark.parametrize(
    ("name", "letter"),
    [
        ("Arabic", "س"),
        ("Hebrew", "ש"),
        ("Devanagari", "क"),
        ("Thai", "ก"),
        ("Hangul", "한"),
        ("Georgian", "ქ"),
        ("Latin", "ﬁ"),
        ("Han", "𠀀"),
    ],
)
def test_blocks(name: str, letter: str) -> None:
    assert script(letter) == name
