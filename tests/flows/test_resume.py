"""SIGKILL in the middle of a training stage: the same command finishes it, to the same bytes as a run that nothing interrupted.

The cadence of checkpoints and of the curve cannot change a result, so no key holds it: the killed runs write both often.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest

STAGES = ["validate", "filter", "pretrain", "sft", "align", "evaluate"]
OFTEN = ["--set", "compute.checkpoint_seconds=0.05", "--set", "compute.log_every=1", "--set", "registry=null"]


def _checkpoint(stage: Path) -> int:
    """Step of the newest complete checkpoint of a stage that is being built; 0 when there is none."""
    found = [int(path.name) for path in stage.glob("*.partial/.checkpoint/[0-9]*")]
    return max(found, default=0)


def _kill_in(stage: str, store: Path, process, helpers, dice: random.Random, steps: int) -> int:
    """Wait for a checkpoint at or after a random step, let a random moment pass, kill; the step of the last checkpoint."""
    wanted, pause = dice.randint(1, steps // 2), dice.uniform(0, 0.1)
    print(f"kill {stage} {pause:.3f} s after a checkpoint at or after step {wanted} of {steps}")
    end = time.monotonic() + 200
    while _checkpoint(store / stage) < wanted:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, f"no checkpoint of {stage} at step {wanted}"
        time.sleep(0.005)
    time.sleep(pause)
    helpers.kill_group(process)
    process.communicate()
    return _checkpoint(store / stage)


def _curve(folder: Path) -> list[dict]:
    lines = (folder / "curve.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]  # a kill may cut the last one


@pytest.mark.parametrize("stage", ["pretrain", "sft", "align"])
def test_a_stage_killed_at_a_random_instant_resumes_to_the_same_weights(
    stage, copy, finished, tiny, start_warm, helpers, nested_of, client_of
):
    """The curve's `seconds` are measured, so points that are equal to the digit are points of steps that were not run again."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    before = {each.name: each for each in finished.report.stages}
    later = STAGES[STAGES.index(stage) :]
    for name in later:
        shutil.rmtree(copy / name)
    shutil.rmtree(copy / "cache")  # reference log-probabilities are computed again
    start = helpers.start if stage == "align" else start_warm  # one of the three kills a Prefect server as well
    command = ["run", tiny.recipe, "--store", copy, "--json", *OFTEN]

    killed = start(*command, cwd=tiny.folder)
    steps = int(before[stage].metrics["steps"])
    resumable = _kill_in(stage, copy, killed, helpers, random.Random(seed), steps)
    folder = copy / stage / before[stage].key
    assert not folder.exists(), f"{stage} was finished before the kill: make it longer"
    assert 0 < resumable < steps
    kept = [point for point in _curve(Path(f"{folder}.partial")) if point["step"] <= resumable]
    assert kept[-1]["step"] == resumable

    resumed = start(*command, cwd=tiny.folder)
    out, err = resumed.communicate(timeout=300)
    helpers.kill_group(resumed)
    assert resumed.returncode == 0, err
    report = type(finished.report).model_validate_json(out)
    assert [each.name for each in report.stages if not each.reused] == later
    assert _curve(folder)[: len(kept)] == kept
    assert [point["step"] for point in _curve(folder)] == list(range(steps + 1))
    assert helpers.weights(report, stage) == helpers.weights(finished.report, stage)
    assert {each.name: each.key for each in report.stages} == {name: before[name].key for name in STAGES}
    assert not os.path.exists(f"{folder}.partial")

    runs = client_of(copy).search_runs([client_of(copy).get_run(report.run_id).info.experiment_id])
    parents = [run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert sorted(parents) == sorted([finished.report.run_id, report.run_id])
    nested = nested_of(copy, report.run_id)
    assert [name for name, _ in nested] == later
    assert {run.info.status for _, run in nested} == {"FINISHED"}
