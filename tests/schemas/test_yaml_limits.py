"""YAML that is small as text and endless as values: refused at its line, at once."""

from __future__ import annotations

import time

import pytest
import yaml

from schemas.errors import Refusal
from schemas.load import apply_overrides, load_recipe
from schemas.yaml_limits import DEPTH, VALUES, read

LEVELS = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 10))
BOMBS = {
    "nine levels of nine aliases": ("l0: &l0 [x, x, x, x, x, x, x, x, x]\n" + LEVELS, "over 50,000 values"),
    "aliases of a long text's list": ("a: &a [" + "x," * 1000 + "]\nb: [" + "*a," * 60 + "]\n", "over 50,000 values"),
    "an alias in itself": ("a: &a [1, *a]\n", "an alias inside of what it stands for"),
    "a thousand brackets": ("a: " + "[" * 1000 + "]" * 1000, f"nested over {DEPTH} deep"),
    "many values": ("a: [" + "1," * VALUES + "]", "over 50,000 values"),
    "a long file": ("# " + "x" * 1_000_000, "at most 1,000,000"),
    "no date": ("a: 2024-99-99\n", "month must be in 1..12"),
    "a long number": ("a: " + "1" * 10_000, "in quotes"),
    "one that Python does not print": ("a: 0x" + "f" * 900_000, "a number of 900,002 characters"),
    "one of sixties, which takes minutes": ("a: 1" + ":1" * 300_000, "a number of 600,001 characters"),
    "one that is no float": ("a: 1" + ":1" * 300_000 + ".5", "a number of 600,003 characters"),
    "no truth value": ("a: !!bool x", "not of its type"),
    "no timestamp": ("a: !!timestamp x", "not of its type"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_recipe_that_would_not_end_is_refused_in_a_short_message(tmp_path, name):
    text, said = BOMBS[name]
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(Refusal) as refusal:
        load_recipe(path)
    assert time.monotonic() - started < 60
    assert said in str(refusal.value)
    assert len(str(refusal.value)) < 2000


def test_the_line_of_what_is_too_deep_is_named():
    with pytest.raises(Refusal, match=r"^r\.yaml:3: "):
        read("a: 1\nb: 2\nc: " + "[" * 100, "r.yaml")


def test_a_value_on_the_command_line_has_the_same_limits():
    with pytest.raises(Refusal, match="nested over"):
        apply_overrides({}, ["model=" + "[" * 100])


def test_a_number_on_the_command_line_and_a_field_of_a_thousand_levels_are_refused():
    with pytest.raises(Refusal, match="a number of 10,002 characters"):
        apply_overrides({}, ["seed=0x" + "f" * 10_000])
    with pytest.raises(Refusal, match="a field 1,000 levels deep"):
        apply_overrides({}, [".".join(["a"] * 1000) + "=1"])


def test_a_refused_value_of_aliases_is_named_in_a_short_message(tmp_path):
    """40,000 values are allowed, and none of them is quoted in full."""
    (tmp_path / "r.yaml").write_text("a: &a [" + "xxxxxxxx," * 1000 + "]\nname: [" + "*a," * 39 + "]\n")
    with pytest.raises(Refusal) as refusal:
        load_recipe(tmp_path / "r.yaml")
    assert len(str(refusal.value)) < 5000


def test_anchors_of_a_recipe_still_work():
    text = "shared: &rate {learning_rate: 1.0e-3, peft: &p {r: 4}}\nsft: *rate\nreward: {<<: *rate, peft: *p}\n"
    assert read(text, "r.yaml") == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sft: {epochs: 1}\nname: a\nsft: {epochs: 2}\n", r"^r\.yaml:3: found 'sft' a second time, after line 1"),
        ("sft:\n  epochs: 1\n  epochs: 1\n", r"^r\.yaml:3: found 'epochs' a second time, after line 2"),
        ("{seed: 1, 'seed': 2}", r"^r\.yaml:1: found 'seed' a second time"),
    ],
)
def test_a_key_that_comes_twice_is_refused_rather_than_one_of_its_values_dropped(text, said):
    with pytest.raises(Refusal, match=said):
        read(text, "r.yaml")


def test_what_a_merged_mapping_brings_may_be_set_anew():
    assert read("a: &a {r: 1, s: 2}\nb: {<<: *a, r: 3}\nc: {<<: *a, <<: {t: 4}}\n", "r.yaml")["b"] == {"r": 3, "s": 2}
