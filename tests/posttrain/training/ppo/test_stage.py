"""The stage with a reward model of the run: its unit, its agreement with a monitor, and an ensemble, on a tiny policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.models.policy import Policy
from posttrain.training.request import StageRequest, carry_out
from schemas.load import validate_recipe

REWARD = {"epochs": 1, "peft": {"method": "lora", "r": 4}}
SECTION = {
    "algorithm": "ppo", "iterations": 2, "rollouts": 32, "epochs": 1, "minibatches": 2, "max_new_tokens": 8, "max_length": 96,
    "temperature": 1.0, "learning_rate": 1e-3, "held_out_prompts": 8, "peft": {"method": "lora", "r": 4},
    "monitor": {"source": "function", "name": "lengths_in_words:reward"},
}  # fmt: skip
MODULE = "def reward(prompts, responses):\n    return [float(len(response)) for response in responses]\n"


@pytest.fixture
def align(checkpoint, trained_reward, reward_pairs, tmp_path, monkeypatch):
    """Carries out the stage with these changes: its metrics and its folder."""
    (tmp_path / "lengths_in_words.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    reward_pairs().write_parquet(tmp_path / "rows.parquet")
    folder = trained_reward("lora", {"method": "lora", "r": 4})

    def run(name: str, **changes) -> tuple[dict, Path]:
        out = tmp_path / name
        out.mkdir()
        document = {
            "name": "tiny", "model": {"source": "local", "path": str(checkpoint)}, "data": {"preferences": "p"}, "reward": REWARD,
            "alignment": SECTION | {"reward": {"source": "model"}} | changes,
            "compute": {"device": "cpu", "checkpoint_seconds": 1e6},
        }  # fmt: skip
        recipe = validate_recipe(document, "tiny")
        uris = [source.uri for source in recipe.alignment.sources if source.source == "registry"]
        request = StageRequest(
            stage="align", train="posttrain.training.ppo.stage:ppo", recipe=recipe, policy=Policy(str(checkpoint)),
            policy_digest="tiny", rows=tmp_path / "rows.parquet", out=out, cache=out / "cache",
            rewards={"model": folder, **dict.fromkeys(uris, folder)},
        )  # fmt: skip
        return carry_out(request).metrics, out

    return run


def test_rewards_and_critic_are_in_standard_deviations_of_the_policys_own_answers(align, points):
    """The factor is that of the document; the first values, which the reward model makes, shrink by it as the rewards do."""
    metrics, out = align("unit")
    raw, raw_out = align("raw", reward={"source": "model", "standardise": False})
    written = json.loads((out / "on_policy.json").read_text())
    factor = next(row["std"] for row in written["rewards"] if row["name"] == "reward_model")
    assert abs(factor - 1) > 0.05
    ours, theirs = points(out)[1], points(raw_out)[1]
    assert ours["reward_model"] * factor == pytest.approx(theirs["reward_model"], rel=1e-4)
    assert ours["score_std"] == pytest.approx(1.0, rel=0.5)  # of 32 other answers
    assert ours["explained_variance_mc"] == pytest.approx(theirs["explained_variance_mc"], abs=0.2)  # apart from the divergence
    assert ours["value_bias"] * factor == pytest.approx(theirs["value_bias"], rel=0.1, abs=0.1)
    name = "on_policy_correlation_reward_model_monitor_reward"
    assert metrics[name] == raw[name] == written["agreement"][0]["correlation"]


def test_models_that_agree_pay_nothing_for_being_an_ensemble(align, points):
    """The same model under two names: the sum is twice its reward, and its disagreement 0."""
    twins = [{"source": "registry", "uri": f"models:/{name}@champion"} for name in ("one", "other")]
    _, out = align("ensemble", reward=twins, ensemble_penalty=3.0)
    first = points(out)[1]
    assert first["ensemble_std"] == pytest.approx(0, abs=1e-4)
    assert first["score"] == pytest.approx(2 * first["reward_one_champion"], abs=1e-3)


def test_models_that_disagree_pay_for_it(align, points):
    """This run's model reads the tokens of an answer, the registered copy its text as if it had ended: they differ.
    The sum falls by k times the standard deviation of the two, once for each of their weights."""
    registered = {"source": "registry", "uri": "models:/one@champion"}
    _, out = align("ensemble", reward=[{"source": "model"}, registered], ensemble_penalty=0.5)
    first = points(out)[1]
    assert first["ensemble_std"] > 0.1
    expected = first["reward_model"] + first["reward_one_champion"] - 0.5 * 2 * first["ensemble_std"]
    assert first["score"] == pytest.approx(expected, abs=1e-3)
