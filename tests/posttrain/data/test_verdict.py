"""The refusal of data sets that are too bad to be trained on, word by word, from findings that are made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.data.findings import Finding, Tallied
from posttrain.data.verdict import Outcome, refuse_empty_splits, refuse_failures
from schemas.errors import Refusal

OUT = Path("out")


def outcome(kept: int, rows_in: int, *failures: Finding, **reasons: int) -> Outcome:
    """A data set of which so many rows were quarantined for each reason, the first of them in row 7 of f."""
    tally = Tallied()
    for name, count in reasons.items():
        tally.add(name, ["f:7"], count)
    return Outcome(kept, tally, {"rows_in": rows_in}, failures)


def refusal(**outcomes: Outcome) -> Refusal:
    with pytest.raises(Refusal) as caught:
        refuse_failures(outcomes, OUT)
    return caught.value


def test_data_sets_with_rows_and_without_failures_pass():
    refuse_failures({"preferences": outcome(1, 2, empty_chosen=1), "prompts": outcome(5, 5)}, OUT)


def test_a_data_set_without_rows_and_one_with_bad_rows_are_two_refusals():
    none = refusal(preferences=outcome(0, 0))
    assert (none.where, none.found) == ("data.preferences", "no rows left of 0 in data.preferences")
    assert (none.allowed, none.remedy) == ("at least one clean row in data.preferences", "name files that hold rows")
    bad = refusal(preferences=outcome(0, 3, empty_chosen=3), prompts=outcome(1, 1))
    assert (bad.where, bad.found) == (
        "data.preferences", "no rows left of 3 in data.preferences: empty_chosen (3 rows, such as f:7)"
    )  # fmt: skip
    assert bad.remedy == "see out/quarantine.parquet and correct the rows"
    assert bad.details["preferences"] == {"rows_in": 3}


def test_every_limit_is_named_by_its_field_and_can_be_waived():
    """A limit of its own, one of `fail_above`, the share of dropped rows, labels and lengths, over two data sets."""
    failures = (
        Finding("reversed_scores", "drop", 2, 0.02, 0.005, True, ("f:1", "f:2")),
        Finding("script", "warn", 1, 0.01, 0.001, True, ("f:3",)),
        Finding("marker_chosen", "warn", 1, 0.01, 0.001, True),
        Finding("marker_rejected", "warn", 1, 0.01, 0.001, True),
        Finding("max_drop_rate", "fail", 10, 0.1, 0.05, True, ("f:9",)),
    )
    labels = (Finding("one_label", "fail", 4, 1.0, 0.0, True), Finding("length_auc", "fail", 4, 0.9, 0.85, True))
    found = refusal(preferences=outcome(90, 100, *failures, not_json=10), feedback=outcome(4, 4, *labels))
    assert found.where == "data.preferences, data.feedback"
    said = found.found.split("; ")
    assert said[0] == "2.00% pairs whose scores contradict the label in data.preferences (such as f:1, f:2)"
    assert said[1].startswith("1.00% rows with ")
    assert said[1].endswith("(script) in data.preferences (such as f:3)")
    assert said[2].endswith("(marker_chosen) in data.preferences")
    assert said[4] == "10.00% rows dropped in data.preferences: not_json (10 rows, such as f:7)"
    assert said[5] == "100.00% of the labels are the same in data.feedback"
    assert found.allowed == (
        "data.checks.reversed_scores_fail = 0.005; data.checks.fail_above.script = 0.001; "
        "data.checks.fail_above.marker = 0.001; data.checks.max_drop_rate = 0.05; "
        "answers of both labels; data.checks.length_bias_fail = 0.85, so from 15.00% to 85.00%"
    )
    assert found.remedy == (
        "see out/quarantine.parquet and correct the rows; add answers of the other label; add rows whose better answer is the "
        "other one by length, or leave out some of the others; or set data.checks.waive: {reversed_scores: REASON, "
        "script: REASON, marker: REASON, max_drop_rate: REASON, one_label: REASON, length_bias: REASON}"
    )


def test_nothing_can_be_waived_while_a_data_set_is_empty():
    drops = Finding("max_drop_rate", "fail", 3, 1.0, 0.05, True)
    found = refusal(prompts=outcome(0, 3, drops, empty_prompt=3))
    assert found.remedy == "see out/quarantine.parquet and correct the rows"
    assert found.where == "data.prompts"
    assert found.allowed == "at least one clean row in data.prompts; data.checks.max_drop_rate = 0.05"
    for also in (outcome(9, 10, drops), outcome(0, 2, empty_completion=2)):  # there are rows to look at
        assert refusal(prompts=outcome(0, 0), feedback=also).remedy == (
            "see out/quarantine.parquet and correct the rows; name files that hold rows"
        )


def test_a_remedy_leads_to_where_the_rows_are():
    """None of these is in the quarantine: lengths and labels are of all rows, and what is warned of is on the page."""
    longer = Finding("length_bias", "fail", 9, 0.95, 0.85, True)
    assert refusal(preferences=outcome(10, 10, longer)).remedy == (
        "add rows whose better answer is the other one by length, or leave out some of the others; "
        "or set data.checks.waive: {length_bias: REASON}"
    )
    script = Finding("script", "warn", 1, 0.01, 0.001, True, ("f:3",))
    assert refusal(preferences=outcome(10, 10, script)).remedy.startswith("see out/report.html and correct the rows; or set ")


def test_files_without_rows_are_named():
    none = Outcome(0, Tallied(), {"rows_in": 0}, (), tuple(f"{at}.json" for at in range(4)))
    assert refusal(prompts=none).remedy == "name files that hold rows: there are none in 0.json, 1.json, 2.json, …"


@pytest.mark.parametrize(("train", "holdout", "lacks"), [(3.0, 0.0, "holdout"), (0.0, 3.0, "train"), (1.0, 1.0, None)])
def test_a_split_without_a_row_is_refused(train, holdout, lacks):
    counts = {"preferences_kept": 3.0, "preferences_train": train, "preferences_holdout": holdout}
    if lacks is None:
        refuse_empty_splits(counts)
        return
    with pytest.raises(Refusal) as caught:
        refuse_empty_splits(counts)
    assert (caught.value.where, caught.value.found) == ("data.preferences", f"no row in the split {lacks}")
