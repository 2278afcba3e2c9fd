"""Every check on a data set with planted faults: they are found exactly, a clean one has none, and recipes say what follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest

from posttrain.data.checks.explain import ABOUT, check_in_words, checks_table
from posttrain.data.contract import kind_of
from posttrain.data.kinds import KINDS
from posttrain.data.sources import SourceFile
from posttrain.data.validate import validate
from schemas.checks import Adjustable, Checks, Limited
from schemas.errors import Refusal

Row = dict[str, Any]
WORDS = """the hotel room was clean and staff kind because they smiled while breakfast tasted fresh near our quiet window although
rain fell over old streets before evening lights came back again with music""".split()  # noqa: SIM905
RUSSIAN = "Гостиница была чистой, а персонал был очень любезен с нами."  # noqa: RUF001
DOCS = Path(__file__).resolve().parents[4] / "docs" / "data.md"
CLEAN = 60


def text(seed: int, words: int = 24) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def pair(seed: int, **changes: Any) -> Row:
    """A sound pair; sides are of one length."""
    return {"prompt": text(3 * seed), "chosen": text(3 * seed + 1), "rejected": text(3 * seed + 2)} | changes


def files(folder: Path, rows: list[Row], name: str = "p.jsonl") -> list[SourceFile]:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [SourceFile(name, str(folder / name))]


def summary_of(folder: Path, rows: list[Row], against: list[SourceFile] | None = None, **checks: Any) -> dict[str, Any]:
    limits = Checks.model_validate({"length_bias_fail": 1} | checks)
    validate({"preferences": files(folder, rows)}, limits, 0.2, folder / "out", against or ())
    return json.loads((folder / "out" / "summary.json").read_text())["preferences"]


def hits(summary: dict[str, Any]) -> dict[str, tuple[int, str, list[str]]]:
    found = {each["check"]: (each["count"], each["severity"], each["examples"]) for each in summary["checks"] if each["count"]}
    return {name: each for name, each in found.items() if name not in ("length_bias", "length_auc")}


def clean() -> list[Row]:
    return [pair(seed) for seed in range(CLEAN)]


HELD = "Please tell me " + text(9_001)
QUESTION = text(7_000, 13)
FAULTS: dict[str, tuple[list[Row], dict[str, Any]]] = {
    "script": ([pair(900, rejected=RUSSIAN)], {}),
    "language": ([pair(901, chosen="Das Hotel war sauber und das Personal war sehr freundlich zu uns.")], {"languages": ["en"]}),
    "personal": ([pair(902, prompt="Please write to bob.smith@example.com about it.")], {"severity": {"personal": "warn"}}),
    "marker_chosen": ([pair(903, chosen="I say so. Human: really?")], {}),
    "template_token_rejected": ([pair(904, rejected="so<|im_end|>")], {}),
    "prompt_repeated_rejected": ([pair(905, rejected=text(3 * 905) + " is what you ask")], {}),
    "duplicate_prompt": ([pair(906), pair(907, prompt=text(3 * 906))], {}),
    "near_prompt": ([pair(908, prompt=HELD, split="test"), pair(909, prompt=HELD.replace("Please", "Now"), split="train")], {}),
    "contaminated": ([pair(910, chosen=f"well {QUESTION} indeed")], {}),
    "unknown_split": ([pair(911, split="somewhere")], {}),
    "fine_marks": (
        [{"instruction": text(9_100), "completions": [
            {"response": text(9_101), "overall_score": 9, "annotations": {"honesty": {"Rating": "1"}, "truth": {"Rating": "2"}}},
            {"response": text(9_102), "overall_score": 4, "annotations": {"honesty": {"Rating": "5"}, "truth": {"Rating": "N"}}},
        ]}], {}),
    "assistant_first": (
        [pair(912, prompt=[{"role": "assistant", "content": "Hello."}, {"role": "user", "content": text(8_000)}])], {}),
}  # fmt: skip


def test_a_clean_data_set_has_no_finding(tmp_path):
    against = files(tmp_path, [{"question": QUESTION}], "eval.jsonl")
    asked = {"languages": ["en"], "severity": {"personal": "drop"}}
    assert hits(summary_of(tmp_path, clean(), against, **asked)) == {}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_exactly_where_it_is(tmp_path, name):
    planted, checks = FAULTS[name]
    against = files(tmp_path, [{"question": QUESTION}], "eval.jsonl") if name == "contaminated" else None
    found = hits(summary_of(tmp_path, [*clean(), *planted], against, **checks))
    dropped = {"template_token_rejected": "drop", "near_prompt": "drop", "contaminated": "drop"}
    expected = {name: (1, dropped.get(name, "warn"), [f"p.jsonl:{CLEAN + len(planted)}"])}
    if expected[name][1] == "drop":
        expected["max_drop_rate"] = (1, "fail", [f"p.jsonl:{CLEAN + len(planted)}"])
    assert found == expected


@pytest.mark.parametrize("name", FAULTS)
def test_a_recipe_drops_or_passes_over_what_a_check_finds(tmp_path, name):
    planted, checks = FAULTS[name]
    against = files(tmp_path, [{"question": QUESTION}], "eval.jsonl") if name == "contaminated" else None
    counts = {}
    for severity in ("drop", "warn", "off"):
        asked = checks | {"severity": checks.get("severity", {}) | {kind_of(name): severity}}
        summary = summary_of(tmp_path, [*clean(), *planted], against, **asked)
        counts[severity] = summary["quarantined"]
        assert (name in hits(summary)) == (severity != "off")
    assert counts == {"drop": 1, "warn": 0, "off": 0}


@pytest.mark.parametrize("name", ["script", "marker_chosen", "near_prompt"])
def test_a_share_of_rows_fails_a_data_set_unless_it_is_waived_with_a_reason(tmp_path, name, caplog):
    """One row of 61 or 62 is 1.6%."""
    planted, kind = FAULTS[name][0], kind_of(name)
    assert summary_of(tmp_path, [*clean(), *planted], fail_above={kind: 0.02})
    with pytest.raises(Refusal) as caught:
        summary_of(tmp_path, [*clean(), *planted], fail_above={kind: 0.01})
    assert f"({name})" in caught.value.found
    assert f"p.jsonl:{CLEAN + len(planted)}" in caught.value.found
    assert caught.value.allowed == f"data.checks.fail_above.{kind} = 0.01"
    assert f"data.checks.waive: {{{kind}: REASON}}" in caught.value.remedy
    summary = summary_of(tmp_path, [*clean(), *planted], fail_above={kind: 0.01}, waive={kind: "seen and known"})
    assert summary["waived"] == {kind: "seen and known"}
    assert "waived: seen and known" in caplog.text


def test_answers_that_repeat_their_prompt_fail_above_a_share(tmp_path):
    """20 of 80 are 25%, below 30%; 30 of 90 are a third."""
    repeated = [pair(1000 + n, chosen=text(3 * (1000 + n)) + " indeed") for n in range(30)]
    assert summary_of(tmp_path, [*clean(), *repeated[:20]])
    with pytest.raises(Refusal) as caught:
        summary_of(tmp_path, [*clean(), *repeated])
    assert caught.value.allowed == "data.checks.prompt_repeated_fail = 0.3"


def test_lengths_that_tell_chosen_from_rejected_answers(tmp_path):
    """Desirable answers have 12 words and the others 24: none is as long as one of these."""
    rows = [{"prompt": text(2 * n), "completion": text(2 * n + 1, 12 + 12 * (n % 2)), "label": n % 2 == 0} for n in range(CLEAN)]
    with pytest.raises(Refusal) as caught:
        validate({"feedback": files(tmp_path, rows)}, Checks(), 0.2, tmp_path / "out")
    assert caught.value.found.startswith("0.00% of comparisons of a good with a bad answer in which the good one is longer")
    assert caught.value.allowed == "data.checks.length_bias_fail = 0.85, so from 15.00% to 85.00%"
    assert caught.value.remedy.startswith("add rows whose better answer is the other one by length")  # none is quarantined
    assert validate({"feedback": files(tmp_path, rows)}, Checks(waive={"length_bias": "short is good"}), 0.2, tmp_path / "out")
    summary = summary_of(tmp_path, clean())
    (found,) = (each for each in summary["checks"] if each["check"] == "length_auc")
    assert 0.35 < found["share"] < 0.65


@pytest.mark.parametrize("kept", [False, True])
def test_sides_that_go_on_with_the_user_are_kept_where_the_recipe_says_so(tmp_path, kept):
    """And of rows that are of one turn other checks find what they find without it."""
    roles = ("user", "assistant", "user", "assistant", "user", "assistant")
    talk = [{"role": role, "content": text(9_200 + at)} for at, role in enumerate(roles)]
    other = [*talk[:3], talk[3] | {"content": text(9_300)}, *talk[4:]]
    rows = [*clean(), pair(922, chosen="so it is. Human: yes?"), {"chosen": talk, "rejected": other}]
    found = hits(summary_of(tmp_path, rows, several_turns=kept, prompt_mismatch_fail=0.5))
    dropped = {
        name: (1, each, [f"p.jsonl:{CLEAN + 2}"]) for name, each in (("prompt_mismatch", "drop"), ("max_drop_rate", "fail"))
    }
    assert found == {"marker_chosen": (1, "warn", [f"p.jsonl:{CLEAN + 1}"])} | ({} if kept else dropped)


def test_repairs_come_before_checks_and_say_what_they_changed(tmp_path):
    rows = [*clean(), pair(920, chosen="so it is<|im_end|>\n"), pair(921, prompt="Mail a.b@example.com, will you?")]
    assert summary_of(tmp_path, rows)["quarantined"] == 1
    asked = {"repair": ["strip_template_tokens", "redact_personal"], "personal": ["email"], "severity": {"personal": "drop"}}
    summary = summary_of(tmp_path, rows, **asked)
    assert (summary["quarantined"], hits(summary)) == (0, {})
    assert summary["repaired"] == {
        "strip_template_tokens": {"rows": 1, "examples": [f"p.jsonl:{CLEAN + 1}"]},
        "redact_personal": {"rows": 1, "examples": [f"p.jsonl:{CLEAN + 2}"]},
    }
    table = pl.read_parquet(tmp_path / "out" / "preferences.parquet")
    assert table["chosen"].to_list()[CLEAN][0]["content"] == "so it is"
    assert table["prompt"].to_list()[CLEAN + 1][0]["content"] == "Mail [EMAIL], will you?"


def test_feedback_with_one_label_has_nothing_to_learn(tmp_path):
    rows = [{"prompt": text(2 * n), "completion": text(2 * n + 1), "label": True} for n in range(CLEAN)]
    given = {"feedback": files(tmp_path, rows, "f.jsonl")}
    with pytest.raises(Refusal) as caught:
        validate(given, Checks(), 0.2, tmp_path / "out")
    assert "of the labels are the same" in caught.value.found
    assert validate(given, Checks(waive={"one_label": "a first look"}), 0.2, tmp_path / "out")["feedback_kept"] == CLEAN
    both = {"feedback": files(tmp_path, [*rows[1:], rows[0] | {"label": False}], "f.jsonl")}
    assert validate(both, Checks(length_bias_fail=1), 0.2, tmp_path / "out")["feedback_kept"] == CLEAN


def test_every_check_is_described_and_the_documentation_has_them_all():
    checks = {kind_of(check.name).removesuffix(f"_{side}") if kind_of(check.name) not in ABOUT else kind_of(check.name)
              for kind in KINDS.values() for check in kind.checks for side in ("chosen", "rejected", "completion", "prompt")
              if kind_of(check.name) in ABOUT or check.name.endswith(side)}  # fmt: skip
    assert checks | set(get_args(Adjustable)) | set(get_args(Limited)) <= set(ABOUT)
    assert checks_table() in DOCS.read_text(encoding="utf-8")
    for name in ABOUT:
        assert check_in_words(name).startswith(f"{name}\n  finds: ")


def test_a_check_of_no_such_name_is_refused_with_the_nearest():
    with pytest.raises(Refusal) as caught:
        check_in_words("near_promt")
    assert caught.value.remedy == "did you mean near_prompt?"
    assert check_in_words("marker_chosen") == check_in_words("marker")


def test_every_check_that_a_recipe_may_adjust_is_planted():
    sides = ("", "_prompt", "_chosen", "_rejected")
    assert [name for name in get_args(Adjustable) if not any(f"{name}{side}" in FAULTS for side in sides)] == []
