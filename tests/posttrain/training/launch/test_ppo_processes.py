"""PPO in two real processes over gloo: what one process trains, with and without a critic, and the same bits after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from posttrain.models.policy import Policy
from posttrain.runtime.partial import CHECKPOINT
from posttrain.runtime.progress import Quiet, reporting
from posttrain.training.launch.launcher import launch
from posttrain.training.request import StageRequest, carry_out
from schemas.load import validate_recipe

pytestmark = pytest.mark.slow  # 90 processor seconds
SECTION = {
    "algorithm": "ppo", "iterations": 3, "rollouts": 24, "epochs": 2, "minibatches": 2, "max_new_tokens": 12, "max_length": 96,
    "temperature": 1.0, "learning_rate": 3e-3, "schedule": "constant", "held_out_prompts": 4, "kl": {"coefficient": 0.1},
    "peft": {"method": "lora", "r": 4}, "reward": {"source": "function", "name": "lengths_of_text:reward"},
}  # fmt: skip
MODULE = "def reward(prompts, responses):\n    return [len(response) / 10 for response in responses]\n"
WAYS = {
    "critic": {"critic": {"warmup_iterations": 1}, "max_step_kl": 10.0, "weight_decay": 0.1},
    "grpo": {"advantage": "grpo", "samples": 4, "kl": {"coefficient": 0.0}, "minibatches": 3},
}
LAUNCH = """
import sys, pathlib
from posttrain.training.launch.launcher import launch
from posttrain.training.request import StageRequest
launch(StageRequest.model_validate_json(pathlib.Path(sys.argv[1]).read_text()))
"""


@pytest.fixture
def request_of(checkpoint, tmp_path, monkeypatch):
    """Builds the request of PPO on 12 prompts, of which 4 are held out, rewarded by a module of the working directory."""
    (tmp_path / "lengths_of_text.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    prompts = [[{"role": "user", "content": "the hotel was " + "clean and kind " * (i % 5)}] for i in range(16)]
    rows = pl.DataFrame({
        "prompt": prompts, "split": ["holdout" if i % 4 == 3 else "train" for i in range(16)], "source": ["p.jsonl"] * 16,
        "row": range(1, 17), "extra": [json.dumps({"number": i}) for i in range(16)],
    })  # fmt: skip
    rows.write_parquet(tmp_path / "rows.parquet")

    def build(out: Path, way: str, **compute) -> StageRequest:
        out.mkdir()
        document = {
            "name": "tiny", "model": {"source": "local", "path": str(checkpoint)}, "data": {"prompts": "p.jsonl"},
            "alignment": SECTION | WAYS[way], "evaluation": {"judge": {"name": "lengths_of_text:reward"}},
            "compute": {"device": "cpu", "checkpoint_seconds": 1e6} | compute,
        }  # fmt: skip
        return StageRequest(
            stage="align", train="posttrain.training.ppo.stage:ppo", recipe=validate_recipe(document, "tiny"),
            policy=Policy(str(checkpoint)), policy_digest="tiny", rows=tmp_path / "rows.parquet", out=out, cache=out / "cache",
        )  # fmt: skip

    return build


def weights(out: Path) -> str:
    return hashlib.sha256((out / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


class Open(Quiet):
    """What has started and not ended, the outermost first."""

    def __init__(self) -> None:
        self.work: list[str] = []

    def start(self, what: str, total: int) -> None:
        self.work.append(what)

    def end(self, what: str) -> None:
        assert what in self.work
        del self.work[self.work.index(what) :]


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_have_the_numbers_of_one_in_every_iteration(request_of, points, tmp_path, way):
    """Samples are the same; losses, rewards, divergence and the critic's share agree to 1e-5."""
    expected = carry_out(request_of(tmp_path / "alone", way))
    shown = Open()
    with reporting(shown):
        built = launch(request_of(tmp_path / "together", way, num_processes=2))
    assert not shown.work  # what the processes share is counted to its end
    ours, theirs = points(tmp_path / "together"), points(tmp_path / "alone")
    assert len(ours) == len(theirs) >= SECTION["iterations"]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=1e-5, rel=1e-5)
    assert theirs[-1]["kl_per_response" if way == "critic" else "step_kl"] > 1e-4  # it has moved
    rollouts = [(tmp_path / name / "rollouts.jsonl").read_text() for name in ("together", "alone")]
    assert [json.loads(line)["response"] for line in rollouts[0].splitlines()] == [
        json.loads(line)["response"] for line in rollouts[1].splitlines()
    ]
    assert built.outputs == expected.outputs


def test_two_processes_killed_in_an_iteration_resume_to_the_same_weights(request_of, points, tmp_path):
    often = {"num_processes": 2, "checkpoint_seconds": 1e-9}
    launch(request_of(tmp_path / "whole", "critic", **often))
    cut = request_of(tmp_path / "cut", "critic", **often)
    (tmp_path / "cut.json").write_text(cut.model_dump_json())
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(tmp_path / "cut.json")], start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    end = time.monotonic() + 120
    while not [path for path in (cut.out / CHECKPOINT).glob("[0-9]*") if int(path.name) >= 5]:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    launch(cut)
    assert weights(cut.out) == weights(tmp_path / "whole")
    assert points(cut.out) == points(tmp_path / "whole")
