"""From files to clean tables, quarantine and summary; and the counts that are known for real data."""

from __future__ import annotations

import gzip
import json
import logging
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from posttrain.data.collect import collect
from posttrain.data.kinds import KINDS
from posttrain.data.pairs import pair
from posttrain.data.sources import SourceFile
from posttrain.data.validate import QUARANTINE, validate
from schemas.conversations import Conversations
from schemas.data import Checks
from schemas.errors import Refusal
from schemas.preferences import Preferences

HH = Path(__file__).resolve().parents[3].parent / "shared/data/hh-rlhf-harmless-base-test.jsonl.gz"
LENIENT = Checks(max_drop_rate=1.0, length_bias_fail=1.0)


def rows(folder: Path, *lines: object, name: str = "rows.jsonl") -> list[SourceFile]:
    (folder / name).write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return [SourceFile(name, str(folder / name))]


def pairs(count: int) -> list[dict[str, Any]]:
    """Distinct pairs in which the chosen side is longer every other time."""
    return [{"prompt": f"q {n}", "chosen": "a" * (1 + n % 2 * 2), "rejected": "bb"} for n in range(count)]


def in_summary(folder: Path, check: str) -> dict[str, Any]:
    """What the summary says of a check of preferences."""
    checks = json.loads((folder / "summary.json").read_text())["preferences"]["checks"]
    return next(each for each in checks if each["check"] == check)


def test_both_data_sets(tmp_path: Path) -> None:
    """Preferences: 9 pairs, a line that is no JSON, a wrong type, a copy. Instructions: 2, one without an answer."""
    preferences = rows(tmp_path, *pairs(9), "{", {"chosen": 1, "rejected": "x"}, pairs(1)[0])
    talks = rows(tmp_path, {"prompt": "q", "completion": "a"}, {"prompt": "r", "completion": ""}, name="talks.jsonl")
    out = tmp_path / "new" / "out"
    metrics = validate({"preferences": preferences, "instructions": talks}, LENIENT, 0.5, out)
    counts = {name: metrics[f"preferences_{name}"] for name in ("rows_in", "kept", "quarantined")}
    assert counts == {"rows_in": 12, "kept": 9, "quarantined": 3}
    assert metrics["preferences_train"] + metrics["preferences_holdout"] == 9
    assert metrics["preferences_chosen_longer"] == pytest.approx(4 / 9)  # n = 1, 3, 5, 7
    assert (metrics["instructions_rows_in"], metrics["instructions_kept"]) == (2, 1)
    quarantine = pl.read_parquet(out / "quarantine.parquet")
    assert dict(quarantine.schema) == QUARANTINE
    assert [(q["source"], q["file"], q["row"], q["reasons"][0].split(":")[0]) for q in quarantine.to_dicts()] == [
        ("preferences", "rows.jsonl", 10, "not_json"),
        ("preferences", "rows.jsonl", 11, "wrong_type"),
        ("preferences", "rows.jsonl", 12, "duplicate"),
        ("instructions", "talks.jsonl", 2, "empty_completion"),
    ]
    Preferences.validate(pl.read_parquet(out / "preferences.parquet"))
    Conversations.validate(pl.read_parquet(out / "instructions.parquet"))


def test_the_summary(tmp_path: Path) -> None:
    """Ten pairs and two broken lines: shares are of the twelve rows read."""
    validate({"preferences": rows(tmp_path, *pairs(10), "{", "[")}, LENIENT, 0.1, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary) == ["preferences"]
    preferences = summary["preferences"]
    checks = {check.pop("check"): check for check in preferences.pop("checks")}
    assert (preferences["rows_in"], preferences["kept"], preferences["quarantined"]) == (12, 10, 2)
    assert preferences["length_histogram"] == {"edges": [0, 16], "chosen": [10], "rejected": [10]}
    assert checks["not_json"] == {
        "severity": "drop",
        "count": 2,
        "share": 2 / 12,
        "limit": None,
        "failed": False,
        "examples": ["rows.jsonl:11", "rows.jsonl:12"],
    }
    assert checks["max_drop_rate"]["count"] == 2
    assert checks["length_bias"] == {
        "severity": "warn",
        "count": 5,
        "share": 0.5,
        "limit": 0.65,
        "failed": False,
        "examples": [],
    }


def test_the_same_prompt_is_on_one_side_in_both_data_sets(tmp_path: Path) -> None:
    talks = rows(tmp_path, *({"prompt": f"q {n}", "completion": "a"} for n in range(40)), name="talks.jsonl")
    validate({"preferences": rows(tmp_path, *pairs(40)), "instructions": talks}, LENIENT, 0.4, tmp_path)
    sides = [pl.read_parquet(tmp_path / f"{name}.parquet")["split"] for name in ("preferences", "instructions")]
    assert sides[0].to_list() == sides[1].to_list()
    assert set(sides[0]) == {"train", "holdout"}


def test_all_failures_are_one_refusal_after_the_files_are_written(tmp_path: Path) -> None:
    """Preferences: 1 of 4 reversed, and of the 3 kept all chosen are longer. Instructions: 1 of 2 dropped."""
    preferences = rows(
        tmp_path,
        *({"prompt": f"q {n}", "chosen": "long answer", "rejected": "short"} for n in range(3)),
        {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2},
    )
    talks = rows(tmp_path, {"prompt": "q", "completion": "a"}, {"prompt": "r", "completion": ""}, name="talks.jsonl")
    with pytest.raises(Refusal) as refusal:
        validate({"preferences": preferences, "instructions": talks}, Checks(), 0.1, tmp_path / "out")
    assert refusal.value.where == "data.preferences, data.instructions"
    assert refusal.value.found == (
        "25.00% pairs whose scores contradict the label in data.preferences (such as rows.jsonl:4); "
        "25.00% rows dropped in data.preferences: reversed_scores (1 row, such as rows.jsonl:4); "
        "100.00% of pairs with the longer answer chosen (ties count half) in data.preferences; "
        "50.00% rows dropped in data.instructions: empty_completion (1 row, such as talks.jsonl:2)"
    )
    assert "data.checks.reversed_scores_fail = 0.005" in refusal.value.allowed
    assert "waive: {reversed_scores: REASON, max_drop_rate: REASON, length_bias: REASON}" in refusal.value.remedy
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"quarantine.parquet", "summary.json"}


def test_waived_failures_are_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    preferences = rows(tmp_path, *({"prompt": f"q {n}", "chosen": "long answer", "rejected": "short"} for n in range(3)), "{")
    waived = Checks(waive={"length_bias": "short ones are bad", "max_drop_rate": "a test"})
    with caplog.at_level(logging.WARNING):
        metrics = validate({"preferences": preferences}, waived, 0.1, tmp_path)
    assert metrics["preferences_kept"] == 3
    assert "max_drop_rate is 25.00%, waived: a test" in caplog.text
    assert "length_bias is 100.00%, waived: short ones are bad" in caplog.text
    assert in_summary(tmp_path, "max_drop_rate")["severity"] == "warn"


@pytest.mark.parametrize("lines", [["", "  "], [{"prompt": "q", "chosen": "", "rejected": "b"}]])
def test_a_data_set_with_no_rows_left_is_refused(tmp_path: Path, lines: list[object]) -> None:
    waived = Checks(waive=("max_drop_rate",))
    expected = r"no rows left of (0 in data\.preferences$|1 in data\.preferences: empty_chosen \(1 row, such as rows.jsonl:1\))"
    with pytest.raises(Refusal) as no:
        validate({"preferences": rows(tmp_path, *lines)}, waived, 0.1, tmp_path)
    assert re.match(expected, no.value.found)
    assert no.value.remedy.startswith("name files that hold rows" if lines == ["", "  "] else "see ")
    assert in_summary(tmp_path, "max_drop_rate")["share"] == (0.0 if lines == ["", "  "] else 1.0)


def test_a_file_without_rows_among_others_is_told(tmp_path: Path) -> None:
    given = [*rows(tmp_path, *pairs(9)), *rows(tmp_path, "", name="none.jsonl"), *rows(tmp_path, "3", name="bad.jsonl")]
    validate({"preferences": given}, LENIENT, 0.3, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())["preferences"]
    assert (summary["rows_in"], summary["notices"]) == (10, ["none.jsonl has no rows"])


def test_examples_of_dropped_rows_name_each_row_once(tmp_path: Path) -> None:
    """Row 1 is dropped for two reasons, and row 2 for one of them."""
    both, one = {"chosen": "so<|im_end|>", "rejected": ""}, {"chosen": "so<|im_end|>", "rejected": "b"}
    given = rows(tmp_path, {"prompt": "p"} | both, {"prompt": "r"} | one, *pairs(9))
    validate({"preferences": given}, LENIENT, 0.1, tmp_path)
    checks = json.loads((tmp_path / "summary.json").read_text())["preferences"]["checks"]
    assert {check["check"]: check["examples"] for check in checks if check["examples"]} == {
        "empty_rejected": ["rows.jsonl:1"],
        "template_token_chosen": ["rows.jsonl:1", "rows.jsonl:2"],
        "max_drop_rate": ["rows.jsonl:1", "rows.jsonl:2"],
    }


def test_of_a_file_that_breaks_off_rows_are_read_where_the_recipe_says_so(tmp_path: Path) -> None:
    """The checksum and the size at the end of a gzip file are missing: all rows come before the break."""
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in pairs(9)).encode())
    (tmp_path / "rows.jsonl.gz").write_bytes(whole[:-8])
    given = {"preferences": [SourceFile("rows.jsonl.gz", str(tmp_path / "rows.jsonl.gz"))]}
    with pytest.raises(Refusal, match=r"rows\.jsonl\.gz"):
        validate(given, LENIENT, 0.1, tmp_path)
    kept = validate(given, LENIENT.model_copy(update={"incomplete": "keep"}), 0.1, tmp_path)
    assert kept["preferences_kept"] == 9


def test_a_share_is_too_much_above_its_limit_and_not_at_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One row of five is 20%. At its limit there is nothing to waive."""
    given = rows(tmp_path, *pairs(4), "{")
    assert validate({"preferences": given}, Checks(max_drop_rate=0.2), 0.1, tmp_path)["preferences_quarantined"] == 1
    assert in_summary(tmp_path, "max_drop_rate")["severity"] == "fail"
    waived = {"waive": {"max_drop_rate": "a test"}}
    for limit in (0.2, 0.19):
        assert "waived" not in caplog.text
        validate({"preferences": given}, Checks.model_validate({"max_drop_rate": limit} | waived), 0.1, tmp_path)
    assert "max_drop_rate is 20.00%, waived: a test" in caplog.text
    with pytest.raises(Refusal, match=r"20\.00% rows dropped"):
        validate({"preferences": given}, Checks(max_drop_rate=0.19), 0.1, tmp_path)


@pytest.mark.parametrize("chosen", [13, 14])
def test_lengths_are_biased_above_the_limit_and_not_at_it(tmp_path: Path, chosen: int) -> None:
    """Of 20 pairs 13 or 14 have the longer answer chosen, 65% or 70%. Pairs differ more than their sides: the AUC is near .5."""
    sizes = [(10 * n + 2, 10 * n + 1) if n <= chosen else (10 * n + 1, 10 * n + 2) for n in range(1, 21)]
    given = rows(tmp_path, *({"prompt": f"q {n}", "chosen": "a" * c, "rejected": "b" * r} for n, (c, r) in enumerate(sizes)))
    if chosen == 13:
        assert validate({"preferences": given}, Checks(length_bias_fail=0.65), 0.1, tmp_path)
    else:
        with pytest.raises(Refusal, match=r"70\.00% of pairs with the longer answer chosen"):
            validate({"preferences": given}, Checks(length_bias_fail=0.65), 0.1, tmp_path)


@pytest.mark.parametrize(("splits", "said"), [(["train"], "holdout"), (["test"], "train"), (["train", "test"], None)])
def test_a_split_without_a_row_is_told(tmp_path: Path, splits: list[str], said: str | None) -> None:
    """`posttrain validate` says what a run would refuse."""
    given = rows(tmp_path, *(row | {"split": splits[at % len(splits)]} for at, row in enumerate(pairs(4))))
    validate({"preferences": given}, LENIENT, 0.5, tmp_path)
    notices = json.loads((tmp_path / "summary.json").read_text())["preferences"].get("notices", [])
    assert [f"no row is in the split {split}" in " ".join(notices) for split in ("train", "holdout")] == [
        said == "train", said == "holdout"
    ]  # fmt: skip


def test_rows_are_collected_over_files_and_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.data.collect.CHUNK", 3)
    files = rows(tmp_path, *pairs(7), name="a.jsonl") + rows(tmp_path, *pairs(2), name="b.jsonl")
    table, bad, read = collect(KINDS["preferences"], files)
    assert table.select("source", "row").rows() == [("a.jsonl", n) for n in range(1, 8)] + [("b.jsonl", 1), ("b.jsonl", 2)]
    assert table["prompt"][6].to_list() == [pair("q 6", "a", "b")["prompt"][0] | {"extra": None}]
    assert (bad, read) == ([], 9)


@pytest.mark.skipif(not HH.exists(), reason="shared/data is not next to this checkout")
def test_known_truth_of_hh_harmless(tmp_path: Path) -> None:
    """Counted by an independent script over the raw transcripts: 2,312 pairs; 5 prompt mismatches; 4 empty chosen; roles that do
    not alternate in 8 chosen and 5 rejected; markers in 40 and 33; 0 identical. 13 rows have one of the dropping faults."""
    metrics = validate({"preferences": [SourceFile(HH.name, str(HH))]}, Checks(), 0.1, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())["preferences"]
    assert {check["check"]: check["count"] for check in summary["checks"] if check["count"]} == {
        "prompt_mismatch": 5,
        "empty_chosen": 4,
        "roles_chosen": 8,
        "roles_rejected": 5,
        "marker_chosen": 40,
        "marker_rejected": 33,
        "prompt_repeated_chosen": 4,
        "prompt_repeated_rejected": 1,
        "max_drop_rate": 13,
        "length_bias": 1020,
        "length_auc": 2299,
        "duplicate_prompt": 2,
    }
    assert (metrics["preferences_rows_in"], metrics["preferences_kept"]) == (2312, 2299)
    assert metrics["preferences_chosen_longer"] == pytest.approx(0.44, abs=0.01)


@pytest.mark.skipif(not HH.exists(), reason="shared/data is not next to this checkout")
def test_hh_has_two_repeated_prompts() -> None:
    table, _, read = collect(KINDS["preferences"], [SourceFile(HH.name, str(HH))])
    assert read - table["prompt"].hash().n_unique() == 2
