"""Sections of the report that read tables: sources, left-out rows, costs, the drawing of the lineage, earlier versions."""

from __future__ import annotations

import polars as pl
import pytest

from posttrain.report.by_source import by_source
from posttrain.report.costs import matmul_share
from posttrain.report.figures import frontier
from posttrain.report.left_out import left_out
from posttrain.report.lineage import drawing, nodes_of, places_of
from posttrain.report.reward import calibration
from schemas.results import Origin, StageResult


def test_sources_come_worst_first_with_their_gain_and_their_worst_answer():
    """Gains: a -1 and +2, mean .5; b -3 alone; the last row has no reward and does not count."""
    frame = pl.DataFrame(
        {
            "prompt": ["p0", "p1", "p2", "p3"], "source": ["a", "a", "b", "a"],
            "response_sft": ["x"] * 4, "reward_sft": [1.0, 0.0, 2.0, 0.0],
            "response_aligned": ["lost", "won", "worst", "?"], "reward_aligned": [0.0, 2.0, -1.0, None],
        }
    )  # fmt: skip
    found = by_source(frame, ["sft", "aligned"])
    assert [(each.source, each.answers, each.reward, each.gain.value) for each in found] == [
        ("b", 1, -1.0, -3.0),
        ("a", 2, 1.0, 0.5),
    ]
    assert found[0].gain.interval is None
    assert found[1].gain.interval is not None
    assert [each.worst.prompt for each in found] == ["p2", "p0"]
    assert by_source(frame.drop("source"), ["sft", "aligned"]) == []
    assert by_source(frame, ["aligned"]) == []


def test_left_out_rows_are_grouped_by_reason_without_the_numbers_of_each_row(tmp_path):
    """A training stage writes one reason a row, with its length in it; the contract a list of reasons."""
    for stage in ("validate", "sft"):
        (tmp_path / stage).mkdir()
    contract = {"source": ["pairs", "pairs"], "file": ["p.jsonl", "p.jsonl"], "row": [3, 9],
                "reasons": [["empty"], ["empty", "conflict: with row 3"]], "values": ["v3", "v9"]}  # fmt: skip
    pl.DataFrame(contract).write_parquet(tmp_path / "validate" / "quarantine.parquet")
    long = {"source": ["c.jsonl"] * 3, "row": [1, 2, 3], "reason": ["300 tokens", "400 tokens", "no answer"]}
    pl.DataFrame(long).write_parquet(tmp_path / "sft" / "quarantine.parquet")
    found = left_out({stage: tmp_path / stage for stage in ("validate", "sft")})
    assert found == {
        "validate": [
            {"reason": "empty", "rows": 2, "examples": [("p.jsonl:pairs:3", "v3"), ("p.jsonl:pairs:9", "v9")]},
            {"reason": "conflict", "rows": 1, "examples": [("p.jsonl:pairs:9", "v9")]},
        ],
        "sft": [
            {"reason": "N tokens", "rows": 2, "examples": [("c.jsonl:1", ""), ("c.jsonl:2", "")]},
            {"reason": "no answer", "rows": 1, "examples": [("c.jsonl:3", "")]},
        ],
    }


@pytest.mark.parametrize(("trained", "share"), [(1e6, 0.6), (0.0, 0.4)])
def test_the_share_of_the_chip_by_hand(trained, share):
    """1,000 tokens of 10⁶ parameters: 4·10⁹ operations, and 2·10⁹ more where all are trained, in 1 s at 10 GFLOP/s."""
    metrics = {"parameters": 1e6, "trainable_parameters": trained, "matmul_gflops": 10.0}
    assert matmul_share(metrics, 1000, 1.0) == pytest.approx(share)
    assert matmul_share({}, 1000, 1.0) is None
    assert matmul_share(metrics, None, 1.0) is None


def result(stage: str, *inputs: tuple[str, str]) -> StageResult:
    origins = tuple(Origin(name=name, digest="ab" * 32, location=location) for name, location in inputs)
    return StageResult(stage=stage, key=stage[0] * 32, seconds=1, fields={}, inputs=origins)


def test_the_drawing_puts_each_stage_below_what_it_was_made_from():
    results = [
        result("validate", ("data.preferences", "p.jsonl")),
        result("align", ("model", "base"), ("validate.preferences", "v" * 32)),
        result("evaluate", ("align", "a" * 32), ("validate.preferences", "v" * 32)),
    ]
    nodes = nodes_of(results)
    assert {name: node.parents for name, node in nodes.items()} == {
        "data.preferences": (), "validate": ("data.preferences",), "model": (), "align": ("model", "validate"),
        "evaluate": ("align", "validate"),
    }  # fmt: skip
    rows = {name: row for name, (_, row) in places_of(nodes).items()}
    assert rows == {"data.preferences": 0, "validate": 1, "model": 1, "align": 2, "evaluate": 3}
    [figure] = drawing(results)
    for name in ("preferences", "validate", "model", "align", "evaluate", "abababab"):
        assert name in figure.svg
    assert "2 sources (grey) and 3 stages (blue)" in figure.note
    assert drawing([]) == []


def test_earlier_versions_are_points_of_the_frontier():
    ours = [{"policy": "sft", "reward": 0.1, "kl_per_token": 0.0}, {"policy": "aligned", "reward": 0.9, "kl_per_token": 0.2}]
    earlier = [{"policy": "version 3", "reward": 0.5, "reward_interval": [0.4, 0.6], "kl_per_token": 0.7}]
    [without], [figure] = frontier(ours), frontier(ours, earlier)
    assert "version 3" in figure.svg
    assert "version 3" not in without.svg
    assert "Squares are earlier versions" in figure.note
    assert "Squares" not in without.note


def test_the_calibration_of_the_candidate_is_drawn_where_it_was_measured():
    told = {"reliability": [{"confidence": 0.7, "accuracy": 0.6, "pairs": 9}]}
    [figure] = calibration({**told, "metrics": [{"name": "calibration_error", "value": 0.1}]})
    assert figure.note.endswith("Expected calibration error: 0.1.")
    assert calibration({}) == calibration(told) == []
