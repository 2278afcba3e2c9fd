"""A recipe with a reward section through the command line: only the new stage is built, and its output is what others load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from posttrain.rewards.model import open_reward_model

REWARD = "reward={epochs: 4, batch_size: 8, max_length: 256, learning_rate: 0.003, peft: {method: lora, r: 4}}"


def stage_of(report, name: str):
    return next(stage for stage in report.stages if stage.name == name)


def test_a_reward_section_adds_one_stage_and_changes_no_other(again, copy, nested_of):
    run = again(copy, "--set", REWARD)
    assert run.process.returncode == 0, run.process.stderr
    assert run.built == ["reward"]
    stage = stage_of(run.report, "reward")
    assert stage.metrics["validation_loss"] < stage.metrics["validation_loss_start"] - 0.005  # the held-out pairs are few
    assert 0 <= stage.metrics["held_out_calibration_error"] < 1
    folder = Path(stage.outputs["reward"])
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    said = [{"role": "user", "content": "Write a review."}, {"role": "assistant", "content": "Lovely and clean."}]
    ids = tokenizer(tokenizer.apply_chat_template(said, tokenize=False), add_special_tokens=False, return_tensors="pt")[
        "input_ids"
    ]
    assert torch.isfinite(model(input_ids=ids).logits - model.config.reward_mean).all()
    page = Path(run.report.report).read_text("utf-8")
    assert "Reward model" in page
    logged = dict(nested_of(copy, run.report.run_id))["reward"].data.metrics
    assert logged["held_out_accuracy"] == stage.metrics["held_out_accuracy"]
    assert again(copy, "--set", REWARD).built == []


def test_check_counts_what_the_reward_model_trains_and_predicts_its_memory(tiny, call):
    done = call("check", tiny.recipe, "--set", REWARD, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["memory"]["reward"]
    # LoRA of rank 4 on a block: q and o 4 · (32 + 32) each, k and v 4 · (32 + 16), gate, up and down 4 · (32 + 96); head 32.
    assert found["trainable_parameters"] == 2 * 4 * (2 * 64 + 2 * 48 + 3 * 128) + 32
    assert found["peak_memory_gb"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.preferences=null", "alignment={algorithm: none}"], ("data.preferences: found null", "stage reward")),
        (["model.architecture=t5", "model.kv_heads=null"], ("reward.model: found t5, an encoder-decoder", "a decoder or an enc")),
        (["sft.peft={method: prompt_tuning}", "registry=null"], ("sft.peft.method: found prompt_tuning", "name reward.model")),
        (["reward=null", "registry.reward_model=judge"], ("registry.reward_model: found judge, and reward null",)),
        (["reward=null", "evaluation.judge={source: reward_model}"], ("evaluation.judge.source: found reward_model",)),
        (["registry.reward_model=tiny"], ("registry.reward_model: found tiny, the name of the policy",)),
        (
            ["registry.reward_model=judge", "reward.peft={method: bottleneck}"],
            ("reward.peft.method: found bottleneck, which cannot be merged", "registry.reward_model=null"),
        ),
        (["reward.model={source: scratch}"], ("reward.peft.method: found lora with reward.model.source scratch", "full")),
        (["reward.model={source: local, path: nowhere}"], ("reward.model.path: found nowhere, which is no folder",)),
        (["model.architecture=gpt2", "model.kv_heads=null", "reward.max_length=2048"], ("reward.max_length: found 2048", "2047")),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_trains(tiny, refused, words, said):
    refused(tiny.recipe, ["--set", REWARD, *(word for each in words for word in ("--set", each))], said)


CONSUMER = """
import json, sys
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/judge@champion")
said = [{"role": "user", "content": "Review the Old Mill, a hotel."}, {"role": "assistant", "content": "It was lovely."}]
pair = (said[0]["content"], said[1]["content"])
json.dump({
    "chat": model.predict(said), "list": model.predict([said, said]), "pair": model.predict(pair),
    "frame": model.predict(pandas.DataFrame({"prompt": [pair[0]], "response": [pair[1]]})),
    "imported": [name for name in ("schemas", "posttrain", "tasks", "flows") if name in sys.modules],
}, sys.stdout)
"""


@pytest.mark.slow
def test_a_registered_reward_model_is_used_without_this_project(again, copy, client_of, call, tmp_path):
    """In a process of its own, by every form of the question; it has judged the run, too."""
    words = ("--set", REWARD, "--set", "registry.reward_model=judge")
    run = again(copy, *words, "--set", "evaluation.judge={source: reward_model}")
    assert run.process.returncode == 0, run.process.stderr
    assert run.built == ["reward", "evaluate"]
    outputs = stage_of(run.report, "register").outputs
    assert (outputs["reward_model"], outputs["reward_alias"]) == ("models:/judge/1", "champion")
    uri = f"sqlite:///{copy / 'tracking' / 'mlflow.db'}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON"))}
    done = subprocess.run([sys.executable, "-I", "-c", CONSUMER, uri], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                          env=clean | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["imported"] == []
    ours = open_reward_model(Path(stage_of(run.report, "reward").outputs["reward"]), torch.device("cpu"))
    asked = [{"role": "user", "content": "Review the Old Mill, a hotel."}]
    expected = float(ours.of_texts([asked], ["It was lovely."]))
    given = [*found["chat"], *found["list"], *found["pair"], *found["frame"]]
    assert given == pytest.approx([expected] * 5, abs=1e-5)
    recorded = float(client_of(copy).get_model_version("judge", "1").tags["held_out_accuracy"])
    assert recorded == pytest.approx(stage_of(run.report, "reward").metrics["held_out_accuracy"], abs=1e-6)
    walked = call("lineage", "models:/judge@champion", "--store", copy, "--json")
    assert walked.code == 0, walked.err
    assert [stage["stage"] for stage in json.loads(walked.out)["stages"]][-1] == "reward"
