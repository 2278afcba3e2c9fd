"""PPO through the real command line: to the registry, after SIGKILL in sampling and in a step, with rewards that misbehave."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

from schemas.results import RunReport

SECTION = {
    "algorithm": "ppo", "reward": {"source": "model"},
    "monitor": {"source": "function", "name": "posttrain.data.samples:sentiment"},
    "iterations": 4, "rollouts": 16, "epochs": 2, "minibatches": 2, "max_new_tokens": 8, "max_length": 256,
    "learning_rate": 5.0e-3, "peft": {"method": "lora", "r": 4, "alpha": 8},
}  # fmt: skip
REWARD = {"epochs": 1, "batch_size": 16, "max_length": 256, "peft": {"method": "lora", "r": 4, "alpha": 8}}
LATER = ["reward", "align", "evaluate", "register"]
# A reward of one's own, which sleeps, so that a kill finds it in sampling, or fails where a file tells it to.
MODULE = """
import pathlib, time
FOLDER = pathlib.Path(__file__).parent

def reward(prompts, responses):
    calls = FOLDER / "calls"
    calls.write_text(calls.read_text() + "." if calls.exists() else ".")
    mode = (FOLDER / "mode").read_text()
    if mode == "slow" and len(calls.read_text()) == 3:
        time.sleep(600)
    if mode == "raises" and len(calls.read_text()) >= 3:
        raise ValueError("the judge is ill")
    if mode == "nan" and len(calls.read_text()) >= 3:
        return [float("nan")] * len(responses)
    if mode == "short" and len(calls.read_text()) >= 3:
        return [0.0]
    return [float(len(response)) / 40 for response in responses]
"""


@pytest.fixture
def recipe(tiny, tmp_path) -> Path:
    """The tiny recipe with a reward model and PPO."""
    path = tmp_path / "ppo.yaml"
    path.write_text(yaml.safe_dump({**tiny.document, "reward": REWARD, "alignment": SECTION}))
    return path


@pytest.fixture
def ppo(recipe, tmp_path, start_warm, warm, tiny):
    """Runs, or starts, the recipe on a store, with a module of rewards on the path."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "own_reward.py").write_text(MODULE)

    class Runner:
        folder = modules
        words = ("--json", "--set", "compute.checkpoint_seconds=0.01")
        variables: ClassVar = {"PYTHONPATH": f"{modules}:{Path(__file__).resolve().parents[2]}"}

        def run(self, store: Path, *words: str):
            return warm("run", recipe, "--store", store, *self.words, *words, cwd=tiny.folder, **self.variables)

        def start(self, store: Path, *words: str):
            return start_warm("run", recipe, "--store", store, *self.words, *words, cwd=tiny.folder, **self.variables)

    return Runner()


def own(field: str = "reward") -> list[str]:
    """Words that put the test's own module in the place of the reward model."""
    source = "{source: function, name: 'own_reward:reward'}"
    calls = ["--set", "alignment.held_out_prompts=0"]  # one call an iteration
    return ["--set", f"alignment.{field}={source}", "--set", "reward=null", "--set", "registry=null", *calls]


def test_a_reward_model_and_ppo_go_through_the_chain(ppo, copy):
    done = ppo.run(copy)
    assert done.returncode in (0, 3), done.stderr
    report = RunReport.model_validate_json(done.stdout)
    assert [stage.name for stage in report.stages if not stage.reused] == LATER
    stages = {stage.name: stage for stage in report.stages}
    numbers = stages["align"].metrics
    assert numbers["steps"] == 16
    assert numbers["critic_parameters"] == numbers["trainable_parameters"] + 33  # the reward model's LoRA, and a value head
    points = [json.loads(line) for line in (copy / "align" / stages["align"].key / "curve.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points] == [0, 4, 8, 12, 16]
    assert all("held_out_reward" in point and "held_out_monitor_sentiment" in point for point in points)
    assert points[1]["kl"] == pytest.approx(0, abs=1e-5)
    assert {"reward_model", "monitor_sentiment", "explained_variance", "explained_variance_mc"} <= set(points[1])
    page = report.report.read_text("utf-8")
    assert "Responses over the course of training" in page
    assert "reward_model against monitor_sentiment" in page
    on_policy = json.loads((copy / "align" / stages["align"].key / "on_policy.json").read_text())
    assert on_policy["agreement"][0]["correlation"] == numbers["on_policy_correlation_reward_model_monitor_sentiment"]
    raw = {row["name"]: row["std"] for row in on_policy["rewards"]}["reward_model"]
    assert raw != pytest.approx(1.0, abs=0.05)  # so that the unit below is made
    assert points[1]["score_std"] == pytest.approx(1.0, rel=0.5)  # of 16 answers
    assert "monitor_sentiment" in page
    assert abs(stages["evaluate"].metrics["kl_per_token"]) > 1e-6


def test_the_policy_before_alignment_is_not_changed_by_its_reward_model(ppo, copy, finished, helpers):
    """The reward model shares its weights in memory and must not train them: an unaligned run has the SFT policy's digest."""
    done = ppo.run(copy, "--set", "alignment={algorithm: none}", "--set", "registry=null")
    assert done.returncode == 0, done.stderr
    report = RunReport.model_validate_json(done.stdout)
    assert {stage.name for stage in report.stages if stage.reused} >= {"pretrain", "sft"}
    assert helpers.weights(report, "sft") == helpers.weights(finished.report, "sft")


@pytest.mark.slow
def test_a_registered_reward_model_is_what_is_maximised(ppo, finished, tmp_path):
    """It reads the texts of the answers, as ended ones. A registered policy is no reward model."""
    store = Path(shutil.copytree(finished.store, tmp_path / "store"))
    trained = ppo.run(store, "--set", "registry={model: tiny, reward_model: judge}")
    assert trained.returncode in (0, 3), trained.stderr
    registered = ["--set", "alignment.reward={source: registry, uri: 'models:/judge@champion'}", "--set", "registry=null"]
    done = ppo.run(store, *registered, "--set", "reward=null")
    assert done.returncode == 0, done.stderr
    points = [point for point in _points(store, RunReport.model_validate_json(done.stdout)) if point["step"]]
    assert [point["score"] for point in points] == [point["reward_judge_1"] for point in points]
    assert points[0]["score_std"] > 0
    wrong = ppo.run(store, "--set", "alignment.reward={source: registry, uri: 'models:/tiny@champion'}", "--set", "reward=null")
    assert wrong.returncode == 2
    assert "alignment.reward.uri: found models:/tiny/" in wrong.stderr
    assert "which is no reward model" in wrong.stderr


MOMENTS = {
    "sampling": [],
    "reward pool": ["--set", "alignment.reward={source: function, name: 'own_reward:reward', workers: 1}"],
    "update": [],
    "warm-up": ["--set", "alignment.critic.warmup_iterations=2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_anywhere_ends_bit_identical(ppo, finished, tmp_path, helpers, moment):
    """Killed while its own reward sleeps in the third of four iterations, or after a step of the second, in which the critic may
    train alone. An iteration has 16 steps."""
    sleeps = moment in ("sampling", "reward pool")
    (ppo.folder / "mode").write_text("well")
    whole, cut = (Path(shutil.copytree(finished.store, tmp_path / name)) for name in ("whole", "cut"))
    words = [*own(), "--set", "alignment.epochs=8", *MOMENTS[moment]]
    expected = RunReport.model_validate_json(ppo.run(whole, *words).stdout)
    (ppo.folder / "calls").unlink()
    (ppo.folder / "mode").write_text("slow" if sleeps else "well")
    process = ppo.start(cut, *words)
    _wait(process, lambda: _calls(ppo.folder) == 3 if sleeps else 20 <= _step(cut) < 32)
    helpers.kill_group(process)
    process.communicate()
    assert 0 < _step(cut) < 64
    (ppo.folder / "mode").write_text("well")
    resumed = RunReport.model_validate_json(ppo.run(cut, *words).stdout)
    assert helpers.weights(resumed, "align") == helpers.weights(expected, "align")
    assert _points(cut, resumed) == _points(whole, expected)


@pytest.mark.parametrize(
    "mode", ["raises", pytest.param("nan", marks=pytest.mark.slow), pytest.param("short", marks=pytest.mark.slow)]
)
def test_a_reward_that_misbehaves_stops_the_run_which_goes_on_once_it_is_mended(ppo, copy, mode):
    said = {
        "raises": "ValueError: the judge is ill for prompt 0",
        "nan": "nan for prompt 0",
        "short": "1 rewards for 16 responses",
    }
    (ppo.folder / "mode").write_text(mode)
    stopped = ppo.run(copy, *own())
    assert stopped.returncode == 2
    assert "alignment.reward.name (own_reward:reward)" in stopped.stderr
    assert said[mode] in stopped.stderr
    assert 4 < _step(copy) <= 8
    (ppo.folder / "mode").write_text("well")
    calls = _calls(ppo.folder)
    mended = ppo.run(copy, *own())
    assert mended.returncode == 0, mended.stderr
    assert _calls(ppo.folder) == calls + 2  # the third iteration and the fourth: the first two are in the checkpoint


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_quickstart_learns_and_its_critic_explains_returns(cli, tmp_path):
    """From raw text: the win rate on the ground truth is clear of one half, and the critic foresaw sampled returns to the end."""
    recipe = Path(__file__).resolve().parents[2] / "deployments" / "recipes" / "quickstart-ppo.yaml"
    done = cli("run", recipe, "--store", tmp_path / "store", "--json", cwd=tmp_path, seconds=2300)
    assert done.returncode == 0, done.stderr
    report = RunReport.model_validate_json(done.stdout)
    numbers = {stage.name: stage.metrics for stage in report.stages}
    assert numbers["evaluate"]["win_rate_vs_sft_low"] > 0.5
    assert numbers["align"]["critic_explains"] > 0.1
    assert "reward_model against monitor_sentiment" in report.report.read_text("utf-8")


def test_a_reward_that_does_not_exist_is_refused_before_anything_trains(refused, recipe):
    words = ["--set", "alignment.reward={source: function, name: 'no_such:thing'}"]
    refused(recipe, words, ("alignment.reward.name", "no_such:thing"))


def test_a_source_model_without_a_reward_section_is_refused(refused, recipe):
    refused(recipe, ["--set", "reward=null"], ("alignment.reward", "no section reward", "add reward"))


def test_a_sharded_policy_is_refused(refused, recipe):
    words = ["--set", "compute.num_processes=2", "--set", "compute.strategy=fsdp2"]
    refused(recipe, words, ("compute.strategy", "fsdp2 with alignment.algorithm ppo and 2 processes", "ddp"))


def _wait(process, condition) -> None:
    end = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.005)


def _calls(folder: Path) -> int:
    return len((folder / "calls").read_text()) if (folder / "calls").exists() else 0


def _step(store: Path) -> int:
    """Step of the newest checkpoint of PPO; 0 without one."""
    return max((int(path.name) for path in (store / "align").glob("*.partial/.checkpoint/[0-9]*")), default=0)


def _points(store: Path, report: RunReport) -> list[dict]:
    key = next(stage.key for stage in report.stages if stage.name == "align")
    lines = (store / "align" / key / "curve.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]
