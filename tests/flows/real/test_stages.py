"""The other stages and methods on a real checkpoint in a folder: each run completes, registers, and loads as documented."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DPO = {"algorithm": "dpo", "batch_size": 8, "max_length": 256, "validations": 2}
PPO = {"algorithm": "ppo", "iterations": 2, "rollouts": 8, "epochs": 1, "minibatches": 2, "max_new_tokens": 16, "max_length": 256}
SFT = {"epochs": 1, "batch_size": 8, "max_length": 256, "validations": 2, "peft": {"method": "lora"}}

# Of the case: sections, and the ways in which its version loads.
MERGED, UNMERGED = {"pyfunc", "checkpoint", "adapter"}, {"pyfunc", "adapter"}
CASES = {
    "sft-dpo": ({"sft": SFT, "alignment": DPO}, MERGED),
    "ppo": ({"alignment": {**PPO, "reward": {"source": "function", "name": "lists:bullets"}}}, MERGED),
    "bitfit": ({"alignment": {**DPO, "peft": {"method": "bitfit"}}}, MERGED),
    "bottleneck": ({"alignment": {**DPO, "peft": {"method": "bottleneck"}}}, UNMERGED),
    "prompt-tuning": ({"alignment": {**DPO, "peft": {"method": "prompt_tuning"}}}, UNMERGED),
}

RULE = '''
"""A rule as reward: lines that begin as a list's do."""


def bullets(prompts, responses):
    return [float(sum(line.startswith("- ") for line in response.splitlines())) for response in responses]
'''


@pytest.mark.parametrize("case", CASES)
def test_a_run_from_a_folder_registers_what_loads_as_documented(case, posttrain, recipe, local, rows, answers, tmp_path):
    """40 pairs, so that there are 4 steps."""
    sections, ways = CASES[case]
    (tmp_path / "lists.py").write_text(RULE)
    data = rows(tmp_path, 40, 1, "preferences", *(["instructions"] if "sft" in sections else []))
    run = posttrain("run", recipe(tmp_path, case, local, data, **sections))
    assert (run.report.model.alias, run.report.model.version) == ("champion", "1")
    assert all(Path(run.stages["register"].outputs[way]).is_dir() for way in ways - {"pyfunc"})
    assert answers(run.report, tmp_path).keys() == ways


def test_an_encoder_learns_to_reward_and_ppo_is_rewarded_by_it(posttrain, recipe, local, encoder, rows, answers, tmp_path):
    """The interval of its accuracy on held-out pairs lies above a half."""
    reward = {"model": encoder, "epochs": 2, "batch_size": 8, "max_length": 256}
    alignment = {**PPO, "reward": {"source": "model"}}
    run = posttrain("run", recipe(tmp_path, "encoder", local, rows(tmp_path, 120, seed=2), reward=reward, alignment=alignment))
    metrics = run.stages["reward"].metrics
    print(f"  {metrics}")
    assert 0.5 < metrics["held_out_accuracy_low"] <= metrics["held_out_accuracy"]
    assert answers(run.report, tmp_path).keys() == MERGED
