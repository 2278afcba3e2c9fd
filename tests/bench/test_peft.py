"""The benchmark of PEFT methods: its tables by hand, and one run of it on two methods."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from bench.peft.command import main, measure
from bench.peft.table import HEAD, MARKDOWN_HEAD, cells, figure, markdown, text

LORA = {
    "family": "reparametrization", "learning_rate": 0.001, "trainable_share": 0.055807, "adapter_bytes": 1_158_152,
    "memory_bytes": 241_691_776.0, "seconds_per_step": 0.707, "backward_to_forward": 0.736, "base_seconds_per_token": 0.004,
    "seconds_per_token": 0.006, "merged_seconds_per_token": 0.00408, "start_loss": 2.61, "loss": 2.227,
}  # fmt: skip
PROMPT = LORA | {"family": "soft prompts", "trainable_share": 0.001051, "merged_seconds_per_token": None, "start_loss": 2.93}
RESULT = {
    "shape": "small", "vocabulary": 8192, "parameters": 4_868_352, "task": "sample://instructions", "batch": 8, "steps": 30,
    "threads": 1, "load_before": 1.0, "load_after": 2.0, "methods": {"lora": LORA, "prompt_tuning": PROMPT},
}  # fmt: skip


def test_a_row_by_hand():
    """6 ms a token where the base takes 4 is half as much again; merged it takes 4.08."""
    expected = ("lora", "5.58", "1,158", "242", "707", "0.74", "+50%", "+2%", "2.227", "0.001")
    assert cells("lora", LORA) == dict(zip(HEAD, expected, strict=True))


def test_a_method_that_cannot_be_merged_says_so():
    assert cells("prompt_tuning", PROMPT)["merged"] == "cannot merge"


def test_the_tables_have_a_row_for_each_method_and_name_the_conditions():
    """What was published stands beside what was measured."""
    lines = markdown(RESULT).splitlines()
    assert {line.count("|") for line in lines[:4]} == {len(MARKDOWN_HEAD) + 1}
    assert lines[3].startswith("| `prompt_tuning` | 0.1 | 0.105 |")
    assert "| extra input | +50% | cannot merge |" in lines[3]
    for table in (text(RESULT), markdown(RESULT)):
        assert "30 steps of 8 rows" in table
        assert "load 1.0 to 2.0" in table
        assert "loss at the start 2.61 to 2.93" in table


def test_the_figure_is_a_document_with_every_method():
    root = ElementTree.fromstring(figure(RESULT))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    said = " ".join(root.itertext())
    assert "lora" in said
    assert "prompt_tuning" in said


@pytest.mark.parametrize(("words", "said"), [(["lara"], "unknown method lara"), (["--steps", "1"], "the first is not timed")])
def test_a_bad_call_is_refused_before_anything_runs(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_two_methods_are_measured():
    """LoRA of rank 16 on a block: q and o 16·512, k and v 16·320, three of 16·944: 71,936 numbers, in four blocks 287,744.

    Saved are those in fp32 and a header; a soft prompt of 20 tokens has 20·256.
    """
    found = measure(["lora", "prompt_tuning"], steps=6, threads=1)["methods"]
    lora, prompt = found["lora"], found["prompt_tuning"]
    assert lora["trainable_share"] == pytest.approx(287_744 / (4_868_352 + 287_744), abs=1e-6)
    assert 4 * 287_744 < lora["adapter_bytes"] < 4 * 287_744 + 20_000
    assert 4 * 20 * 256 < prompt["adapter_bytes"] < 4 * 20 * 256 + 1000
    assert prompt["merged_seconds_per_token"] is None
    assert lora["merged_seconds_per_token"] < lora["seconds_per_token"]
    for row in found.values():
        assert row["loss"] < row["start_loss"]
        assert row["memory_bytes"] > 0
        assert row["backward_to_forward"] > 0
