"""Real processes over gloo: they train what one process trains, survive kills to the bit, and never outlive their launcher."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain.runtime.partial import CHECKPOINT
from posttrain.runtime.progress import reporting
from posttrain.training.launch.launcher import LOG, launch
from posttrain.training.request import StageRequest, carry_out
from schemas.errors import Refusal

LORA = {"peft": {"method": "lora", "r": 4, "dropout": 0.2}}  # dropout: each process must get its own random state back
STEPS = 24
LAUNCH = """
import sys, pathlib
from posttrain.training.launch.launcher import launch
from posttrain.training.request import StageRequest
launch(StageRequest.model_validate_json(pathlib.Path(sys.argv[1]).read_text()))
"""


def weights(out: Path) -> dict[str, str]:
    """SHA-256 of every safetensors file of a stage's outputs."""
    files = [path for folder in ("model", "adapter", "reward") for path in (out / folder).glob("*.safetensors")]
    assert files
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def checkpoints(out: Path) -> list[int]:
    return sorted(int(path.name) for path in (out / CHECKPOINT).glob("[0-9]*"))


def start(request: StageRequest) -> subprocess.Popen:
    """A process of its own that launches the request."""
    path = request.out.with_suffix(".json")
    path.write_text(request.model_dump_json())
    path_of_tests = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(path)], env=os.environ | {"PYTHONPATH": path_of_tests}, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`, itself not among them."""
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [each for child in children for each in (child, *descendants(child))]


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def alone(request_of, tmp_path_factory):
    """Trains a stage in this process, once per session; returns its result and folder."""
    done = {}

    def get(stage: str):
        if stage not in done:
            out = tmp_path_factory.mktemp("alone") / stage
            done[stage] = carry_out(request_of(stage, out)), out
        return done[stage]

    return get


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("stage", ["sft", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("reward", "align"))])
def test_two_processes_have_the_losses_of_one_at_every_step(stage, strategy, request_of, alone, points, tmp_path):
    """In steps of one row the second process has nothing. Validation losses, gradient norms and DPO's metrics agree as well."""
    expected, expected_out = alone(stage)
    out = tmp_path / "together"
    built = launch(request_of(stage, out, num_processes=2, strategy=strategy))
    assert len(points(out)) == 1 + STEPS  # and the held-out loss before the first one
    for ours, theirs in zip(points(out), points(expected_out), strict=True):
        if ours["step"] == 1:  # margins are 0 before the first step: their sign, and so the accuracy, is rounding
            ours.pop("accuracy", None), theirs.pop("accuracy", None)
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    names = ("steps", "tokens", "examples", "parameters", "trainable_parameters")
    assert [built.metrics[name] for name in names] == [expected.metrics[name] for name in names]
    assert built.outputs == expected.outputs
    only_here = {LOG, CHECKPOINT, "cache"}
    assert {path.name for path in out.iterdir()} - only_here == {path.name for path in expected_out.iterdir()} - only_here


@pytest.mark.parametrize(
    ("stage", "strategy"),
    [("sft", "ddp"), *(pytest.param(*each, marks=pytest.mark.slow) for each in (("sft", "fsdp2"), ("reward", "ddp")))],
)
def test_a_run_of_two_processes_killed_at_once_resumes_to_the_same_weights(stage, strategy, request_of, points, tmp_path):
    """SIGKILL to the launching process and to torch's launcher; the workers, whom no signal was sent, end with it."""
    parallel = {"num_processes": 2, "strategy": strategy, "checkpoint_seconds": 1e-9}
    launch(request_of(stage, tmp_path / "whole", LORA, **parallel))

    cut = request_of(stage, tmp_path / "cut", LORA, **parallel)
    process = start(cut)
    wait_until(lambda: [n for n in checkpoints(cut.out) if n >= 5], "a checkpoint")
    below = descendants(process.pid)
    assert len(below) == 3  # torch's launcher and two workers
    process.kill()
    os.killpg(below[0], signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not any(map(alive, below)), "all processes gone")
    assert not (cut.out / "adapter").exists()
    assert not (cut.out / "reward").exists()
    reached = checkpoints(cut.out)[-1]
    assert 5 <= reached < STEPS

    launch(cut)
    assert weights(cut.out) == weights(tmp_path / "whole")
    assert points(cut.out) == points(tmp_path / "whole")


@pytest.mark.parametrize("how", ["the launching process is killed", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_processes_that_are_asked_to_stop_leave_a_checkpoint_and_end(how, request_of, points, tmp_path):
    """No checkpoint would be due for days. The launching process cannot pass on its own SIGKILL: the kernel does."""
    job = request_of("sft", tmp_path / "stopped", {"epochs": 500}, num_processes=2)
    process = start(job)
    wait_until(lambda: (job.out / "curve.jsonl").exists() and len(points(job.out)) >= 3, "three steps")
    below = descendants(process.pid)
    if how == "SIGTERM":
        os.killpg(below[0], signal.SIGTERM)
    else:
        process.kill()
    _, err = process.communicate()
    wait_until(lambda: not any(map(alive, below)), "all processes gone")
    (step,) = checkpoints(job.out)
    assert points(job.out)[-1]["step"] == step >= 3
    if how == "SIGTERM":
        assert f"TrainingStopped: stopped after step {step} of 2000" in err.decode()


def test_a_refusal_in_a_worker_arrives_as_one(request_of, tmp_path):
    """No layer has this name: known when the model is wrapped, which the workers do."""
    nowhere = {"peft": {"method": "lora", "target_modules": ["nowhere"]}}
    with pytest.raises(Refusal) as refused:
        launch(request_of("sft", tmp_path / "refused", nowhere, num_processes=2))
    assert refused.value.where == "sft.peft.target_modules"
    assert "nowhere" in refused.value.found
    in_worker, log = refused.value.__notes__
    assert "Traceback" in in_worker
    assert LOG in log


@pytest.mark.slow
def test_three_processes_interrupted_by_a_person_resume_to_the_same_weights(request_of, stop_at, tmp_path):
    """A sum over three depends on its order, which follows DDP's buckets: these must not be laid anew by the resumed run."""
    launch(request_of("sft", tmp_path / "whole", num_processes=3))
    cut = request_of("sft", tmp_path / "cut", num_processes=3)
    with reporting(stop_at(5)), pytest.raises(KeyboardInterrupt):
        launch(cut)
    assert 5 <= checkpoints(cut.out)[-1] < STEPS
    launch(cut)
    assert weights(cut.out) == weights(tmp_path / "whole")
