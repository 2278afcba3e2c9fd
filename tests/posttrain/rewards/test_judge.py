"""Judges that answer, and judges that do not."""

from __future__ import annotations

import sys
import time
import types

import pytest
import torch

from posttrain.rewards.functions import load_function
from posttrain.rewards.judge import load_judge, open_judge
from posttrain.rewards.model import open_reward_model
from schemas.errors import Refusal
from schemas.judge import FunctionJudge
from schemas.load import validate_recipe

PROMPTS, RESPONSES = ["Rate A", "Rate B"], ["good", "excellent"]


@pytest.fixture
def judge(monkeypatch):
    """Makes a module with the given function as `judge`, and the recipe section that names it."""

    def build(function) -> FunctionJudge:
        module = types.ModuleType("judge_of_this_test")
        module.judge = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return FunctionJudge(name=f"{module.__name__}:judge")

    return build


def test_rewards_come_back_as_floats_in_order(judge):
    """4 and 9 characters, and 10 for a prompt that ends in B."""
    reward = load_judge(
        judge(lambda prompts, responses: [len(r) + 10 * p.endswith("B") for p, r in zip(prompts, responses, strict=True)])
    )
    assert reward(PROMPTS, RESPONSES) == [4.0, 19.0]
    assert all(type(value) is float for value in reward(PROMPTS, RESPONSES))


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_a_judge_that_exits_is_refused_and_ends_nothing(judge, timeout):
    """`sys.exit(0)` in a function would end the run before it is done, with the exit code of success."""

    def leave(prompts, responses):
        sys.exit(0)

    section = judge(leave)
    with pytest.raises(Refusal, match="for prompt 0: 'Rate A'"):
        load_function(section.name, "alignment.reward.name", timeout)(PROMPTS, RESPONSES)


def test_a_script_that_exits_when_it_is_imported_is_refused(tmp_path, monkeypatch):
    (tmp_path / "script_of_this_test.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refusal, match="an importable module:function"):
        load_function("script_of_this_test:main", "alignment.reward.name")


@pytest.mark.parametrize("rewards", [[1.0], [1.0, 2.0, 3.0], []])
def test_the_wrong_number_of_rewards_is_refused(judge, rewards):
    with pytest.raises(Refusal, match=f"{len(rewards)} rewards for 2 responses") as refused:
        load_judge(judge(lambda prompts, responses: rewards))(PROMPTS, RESPONSES)
    assert refused.value.where == "evaluation.judge.name (judge_of_this_test:judge)"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e39, -3.41e38])
def test_a_reward_that_is_not_finite_is_refused_and_its_prompt_named(judge, bad):
    with pytest.raises(Refusal, match="for prompt 1: 'Rate B'"):
        load_judge(judge(lambda prompts, responses: [0.0, bad]))(PROMPTS, RESPONSES)


@pytest.mark.parametrize(
    "name", ["no_such_module_anywhere:judge", "posttrain.data.samples:no_such_function", "posttrain.no_such:sentiment"]
)
def test_a_missing_module_or_function_is_refused_before_it_is_called(name):
    with pytest.raises(Refusal) as refused:
        load_judge(FunctionJudge(name=name))
    assert refused.value.where == "evaluation.judge.name"
    assert name in refused.value.found


def test_a_name_that_is_no_function_is_refused_before_it_is_called():
    """`SEEDS` is a dictionary: calling it would fail only after everything was trained."""
    with pytest.raises(Refusal, match="SEEDS"):
        load_judge(FunctionJudge(name="posttrain.data.samples:SEEDS"))


def test_a_reward_model_judges_whole_conversations(trained_reward, checkpoint):
    """As it scores them by itself; a function would see the last message alone."""
    folder = trained_reward("lora", {"method": "lora", "r": 4})
    document = {"name": "tiny", "model": {"source": "local", "path": str(checkpoint)}, "data": {"preferences": "p"},
                "reward": {}, "evaluation": {"judge": {"source": "reward_model"}}, "compute": {"device": "cpu"}}  # fmt: skip
    user = {"role": "user", "content": "Write a review."}
    said = [[user], [user, {"role": "assistant", "content": "Bad."}, user]]
    rewards = open_judge(validate_recipe(document, "tiny"), folder)(said, ["clean", "clean"])
    assert rewards == open_reward_model(folder, torch.device("cpu")).of_texts(said, ["clean", "clean"]).tolist()
    assert rewards[0] != rewards[1]


def test_the_judge_of_the_shipped_recipes_exists():
    assert len(load_judge(FunctionJudge(name="posttrain.data.samples:sentiment"))(PROMPTS, RESPONSES)) == 2


def reward_of(function, monkeypatch, timeout: float | None = None):
    """The function as a reward of PPO."""
    module = types.ModuleType("reward_of_this_test")
    module.reward = function
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return load_function("reward_of_this_test:reward", "alignment.reward.name", timeout)


def test_a_reward_that_raises_names_itself_and_the_first_prompt_that_makes_it(monkeypatch):
    def reward(prompts, responses):
        if "Rate B" in prompts:
            raise KeyError("no such item")
        return [1.0] * len(prompts)

    with pytest.raises(Refusal, match=r"KeyError: 'no such item' for prompt 1: 'Rate B'") as refused:
        reward_of(reward, monkeypatch)(PROMPTS, RESPONSES)
    assert refused.value.where == "alignment.reward.name (reward_of_this_test:reward)"
    assert "run again" in refused.value.remedy


def test_a_reward_that_fails_for_many_alone_names_them_all(monkeypatch):
    def reward(prompts, responses):
        if len(prompts) > 1:
            raise MemoryError
        return [1.0]

    with pytest.raises(Refusal, match="for prompts 0 to 1 together"):
        reward_of(reward, monkeypatch)(PROMPTS, RESPONSES)


def test_a_reward_that_takes_too_long_is_left_behind_and_its_prompt_named(monkeypatch):
    def reward(prompts, responses):
        time.sleep(30 * prompts.count("Rate B"))
        return [1.0] * len(prompts)

    started = time.monotonic()
    with pytest.raises(Refusal, match=r"no answer within 0.4 s for prompt 1: 'Rate B'"):
        reward_of(reward, monkeypatch, timeout=0.4)(PROMPTS, RESPONSES)
    assert time.monotonic() - started < 10
    assert reward_of(reward, monkeypatch, timeout=5)(PROMPTS[:1], RESPONSES[:1]) == [1.0]


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_reward_model_that_answers_no_number_is_refused_as_a_function_is(trained_reward, monkeypatch, bad):
    folder = trained_reward("judge", {"method": "full"})
    document = {
        "name": "tiny", "model": {"source": "local", "path": "m"}, "data": {"preferences": "p"}, "reward": {},
        "evaluation": {"judge": {"source": "reward_model"}},
    }  # fmt: skip
    judge = open_judge(validate_recipe(document, "test"), folder)
    asked = [[{"role": "user", "content": "Rate it."}]] * 2
    assert len(judge(asked, RESPONSES)) == 2
    monkeypatch.setattr("posttrain.rewards.model.RewardModel._scores", lambda *given: torch.tensor([0.0, bad]))
    with pytest.raises(Refusal, match=r"evaluation\.judge: found a reward of (nan|-inf) .* answer 1: 'excellent'"):
        judge(asked, RESPONSES)
