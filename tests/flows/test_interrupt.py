"""Ctrl-C and SIGTERM on a real run: what is printed, what is kept, and that the same command goes on from there.

The processes are started as a shell starts them: the signal of a Ctrl-C reaches the whole process group.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ONCE_A_DAY = ["--set", "compute.checkpoint_seconds=100000", "--set", "compute.log_every=1", "--set", "registry=null"]
STOPPED = re.compile(
    r"stopped in align training (\d+) of (\d+)\. Finished stages and the checkpoint of step (\d+) are kept in (\S+): "
    r"run the same command again to go on\."
)


def _wait_for_steps(store, process, count: int) -> None:
    """Until the curve of align has so many points."""
    end = time.monotonic() + 200
    while not any(path.read_text().count("\n") >= count for path in (store / "align").glob("*.partial/curve.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_training_leaves_a_checkpoint_and_a_run_that_goes_on(
    number, code, copy, finished, tiny, start_warm, helpers, nested_of, client_of
):
    """No checkpoint would be due for a day. The Ctrl-C runs with a Prefect server of its own, which the signal reaches too."""
    before = {each.name: each for each in finished.report.stages}
    for stage in ("align", "evaluate", "register"):
        shutil.rmtree(copy / stage)
    start = helpers.start if number == signal.SIGINT else start_warm
    command = ["run", tiny.recipe, "--store", copy, "--json", *ONCE_A_DAY]

    process = start(*command, cwd=tiny.folder)
    _wait_for_steps(copy, process, 5)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=100)
    assert process.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    *printed, last = err.splitlines()
    after = printed[printed.index("stopping after this step, with a checkpoint; once more stops at once") + 1 :]
    assert all(line.startswith("[0:") for line in after)  # the step that was in hand
    step, steps, checkpoint, store = STOPPED.fullmatch(last).groups()
    assert 5 <= int(step) == int(checkpoint) < int(steps) == before["align"].metrics["steps"]
    assert store == str(copy)
    assert [path.name for path in (copy / "align").glob("*.partial/.checkpoint/[0-9]*")] == [f"{int(step):09d}"]
    runs = client_of(copy).search_runs(["1"])
    assert "RUNNING" not in {run.info.status for run in runs}

    resumed = start_warm(*command, cwd=tiny.folder)
    out, err = resumed.communicate(timeout=300)
    helpers.kill_group(resumed)
    assert resumed.returncode == 0, err
    report = type(finished.report).model_validate_json(out)
    assert [each.name for each in report.stages if not each.reused] == ["align", "evaluate"]
    assert helpers.weights(report, "align") == helpers.weights(finished.report, "align")
    assert {run.info.status for _, run in nested_of(copy, report.run_id)} == {"FINISHED"}


def test_before_the_first_stage_there_is_nothing_but_the_sentence(tiny, helpers, tmp_path):
    process = helpers.start("run", tiny.recipe, "--store", tmp_path / "store", cwd=tiny.folder)
    begun = re.compile(r"\[0:\d\d:\d\d\] (checking recipe and data|starting Prefect and MLflow)")
    assert any(begun.match(line) for line in process.stderr)  # reads no further than that line
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    kept = f"Finished stages are kept in {tmp_path / 'store'}: run the same command again to go on."
    assert re.fullmatch(r"stopped in [a-zA-Z ]+\. " + re.escape(kept), err.splitlines()[-1])


STUCK = """
import threading
from pathlib import Path
from rich.console import Console
from flows import interrupt

interrupt.STUCK_SECONDS = 0.5
threading.Thread(target=threading.Event().wait).start()  # never ends, and is waited for at exit
with interrupt.watched(Path("store"), Console(stderr=True)):
    raise KeyboardInterrupt
"""


def test_a_thread_that_never_ends_does_not_keep_an_interrupted_run_alive():
    done = subprocess.run(
        [sys.executable, "-c", STUCK], cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 130
    assert "stopped in between stages" in done.stderr
