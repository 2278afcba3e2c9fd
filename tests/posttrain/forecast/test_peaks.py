"""Predicted peaks: parts by hand, and the whole against what a stage really took."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from transformers import BertConfig, LlamaConfig, T5Config

from posttrain.data.packing import Example
from posttrain.forecast.peaks import Training, evaluation_peaks, training_peaks, wrapped
from posttrain.forecast.phases import Arithmetic
from posttrain.forecast.ppo import ppo_peaks
from posttrain.models.architectures import auto_class
from posttrain.models.parameters import trainable_count
from posttrain.peft.methods import METHODS
from posttrain.peft.wrap import wrap
from posttrain.runtime.fake_tensors import LiveBytes
from posttrain.scoring.layout_choice import choose_layout
from posttrain.scoring.scorer import Scorer
from posttrain.training.dropout import set_dropout
from posttrain.training.objectives import BradleyTerry, LanguageModelling, Objective, Preference
from posttrain.training.optimizer import Updates
from schemas.peft import Peft
from schemas.reward import RewardTraining
from schemas.training import DPO, SFT, Full, LoRA

ROOT = Path(__file__).resolve().parents[3]
CPU = Arithmetic(torch.device("cpu"), torch.float32)
TIED = 4 * (97 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32) + 32)  # bytes of the weights of `config`


# What the defaults of a method are too large for, and dropout of LyCORIS layers.
SMALL = {"oft": {"block_size": 16}, "vera": {"r": 16}, "loha": {"r": 4, "dropout": 0.2}, "lokr": {"r": 4, "dropout": 0.2}}
DRAWING_OR_SOFT = ("loha", "lokr", "prompt_tuning", "prefix_tuning", "p_tuning")


def config(tied: bool = True) -> LlamaConfig:
    return LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                       num_key_value_heads=2, tie_word_embeddings=tied)  # fmt: skip


def t5() -> T5Config:
    return T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=1)


def examples(branches: int) -> list[Example]:
    return [Example(np.zeros(20, np.int32), (np.zeros(10, np.int32),) * branches) for _ in range(8)]


def phases(training: Training) -> dict:
    return {peak.phase: peak for peak in training_peaks(training, CPU)}


def test_full_fine_tuning_holds_gradients_and_two_moments_of_every_weight():
    """Weights W, gradients W, AdamW's moments 2 W, and 4 bytes of its step counter for each tensor."""
    spec = SFT(peft=Full(method="full"))
    peak = phases(Training(config(), spec, spec.peft, LanguageModelling(examples(1)), [[0, 1, 2, 3]], False))["training"]
    assert TIED <= peak.weights <= TIED + 1000  # and the buffers of the rotary positions
    assert peak.gradients == TIED
    assert 2 * TIED <= peak.optimizer <= 2 * TIED + 4 * 20
    assert peak.activations > 0
    assert peak.total == sum(peak.parts().values())


def test_new_tokens_under_a_shared_matrix_cost_a_gradient_of_the_whole():
    """The two rows that LoRA trains lie in the matrix [97, 32] that the head reads: its gradient is dense."""
    spec = SFT(peft=LoRA(method="lora", r=4))
    plain, more = (
        phases(Training(config(), spec, spec.peft, LanguageModelling(examples(1)), [[0, 1]], False, new_tokens=new))["training"]
        for new in ((), (95, 96))
    )
    assert more.gradients - plain.gradients == 4 * 2 * 32
    assert more.activations - plain.activations >= 4 * 97 * 32


def test_an_adapter_holds_those_of_its_own_tensors_alone():
    """LoRA of rank 4 on q (32 → 32) and v (32 → 16) of two layers: 2 · (4·32 + 32·4 + 4·32 + 16·4) numbers."""
    peft = LoRA(method="lora", r=4, target_modules=("q_proj", "v_proj"))
    spec = DPO(algorithm="dpo", peft=peft)
    objective = Preference(examples(2), torch.zeros(8, 2), 0.1)
    found = phases(Training(config(), spec, peft, objective, [[0, 1, 2, 3]], True))
    adapter = 4 * 2 * (4 * 32 + 32 * 4 + 4 * 32 + 16 * 4)
    assert found["training"].gradients == adapter
    assert 2 * adapter <= found["training"].optimizer <= 2 * adapter + 4 * 8
    assert {"start-up check", "training"} < found.keys()


def test_a_reward_model_has_a_score_in_place_of_logits():
    """Beside LoRA's numbers a head of 32. At a vocabulary of 30,000 it holds less than DPO, which has blocks of logits."""
    peft = LoRA(method="lora", r=4, target_modules=("q_proj", "v_proj"))
    spec = RewardTraining(peft=peft)
    found = phases(Training(config(), spec, peft, BradleyTerry(examples(2)), [[0, 1, 2, 3]], False, rewards=True))
    assert found.keys() == {"start-up check", "scoring", "training"}
    assert found["training"].gradients == 4 * (2 * (4 * 32 + 32 * 4 + 4 * 32 + 16 * 4) + 32)
    wide = config()
    wide.vocab_size = 30_000
    dpo = Training(
        wide, DPO(algorithm="dpo", peft=peft), peft, Preference(examples(2), None, 0.1, "simpo"), [[0, 1, 2, 3]], False
    )
    reward = Training(wide, spec, peft, BradleyTerry(examples(2)), [[0, 1, 2, 3]], False, rewards=True)
    assert 3 * phases(reward)["training"].activations < phases(dpo)["training"].activations


def test_an_encoder_is_traced_in_its_own_layout():
    """BERT: what lives while it trains grows with the rows; there is no layout to check."""
    shape = BertConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    spec = RewardTraining(peft=Full(method="full"))
    found = phases(Training(shape, spec, spec.peft, BradleyTerry(examples(2)), [[0, 1, 2, 3]], False, rewards=True))
    assert found.keys() == {"scoring", "training"}
    assert found["training"].gradients == found["training"].weights - 2 * 8 * 512  # buffers of integers


def test_a_quantised_base_is_read_in_full_and_then_held_in_fewer_bytes():
    """Linear layers have 2 · (2·32·32 + 2·32·16 + 3·32·48) = 15,360 numbers; int8 saves 3 bytes of each, nf4 3.48."""
    peft = LoRA(method="lora", r=4)
    spec = SFT(peft=peft)

    def held(kind: str | None) -> dict:
        return phases(Training(config(), spec, peft, LanguageModelling(examples(1)), [[0, 1, 2, 3]], False, quantization=kind))

    exact, int8, nf4 = held(None), held("int8"), held("nf4")
    assert exact["training"].weights - int8["training"].weights == 3 * 15_360
    assert exact["training"].weights - nf4["training"].weights == int(3.48 * 15_360)
    assert int8["reading the weights"].total == TIED
    assert "reading the weights" not in exact


def test_longer_rows_take_more_and_half_precision_less():
    spec = SFT(peft=Full(method="full"))

    def activations(length: int, on: Arithmetic) -> int:
        rows = [Example(np.zeros(1, np.int32), (np.zeros(length, np.int32),)) for _ in range(4)]
        training = Training(config(), spec, spec.peft, LanguageModelling(rows), [[0, 1, 2, 3]], False)
        return next(peak for peak in training_peaks(training, on) if peak.phase == "training").activations

    half = Arithmetic(torch.device("cpu"), torch.bfloat16)
    assert activations(64, CPU) < activations(128, CPU)
    assert activations(512, half) < activations(512, CPU)


def test_sampling_holds_a_cache_of_every_prompt():
    """Cache per token: 2 · 4 bytes · 2 layers · 2 heads of 8 numbers = 256; 16 prompts of 30 tokens and 10 new ones."""
    found = {peak.phase: peak for peak in evaluation_peaks(config(), [30] * 16, 10, examples(2), CPU)}
    assert found["sampling"].activations > 256 * 16 * 39


def adapted(method: str, **fields) -> Peft:
    return TypeAdapter(Peft).validate_python({"method": method, **SMALL.get(method, {}), **fields})


def taken(shape, spec, objective: Objective) -> int:
    """What `activations` forecasts, counted over a step on real numbers in the layout that training would choose."""
    rows = range(4)
    with LiveBytes() as live:
        start = auto_class(shape).from_config(shape)
        set_dropout(start, getattr(spec, "dropout", 0.0))
        model = wrap(start, spec.peft, 0, "alignment.peft")
        scorer = Scorer(model, CPU.device).eval()
        choose_layout(scorer, objective.examples).apply(scorer)
        updates = Updates(scorer.train(), spec)
        for parameter in updates.parameters:
            parameter.grad = torch.zeros_like(parameter)
        updates.optimizer.step()
        updates.optimizer.zero_grad(set_to_none=True)
        before = live.begin()
        loss, _ = objective.loss(scorer([objective.examples[row] for row in rows]), rows)
        updates.backward(loss / objective.units(rows))
        updates.optimizer.step()
        return live.peak - before - sum(4 * parameter.numel() for parameter in updates.parameters)


def assert_counted(shape, peft: Peft) -> None:
    """DPO's forecast is above zero and what a step takes, but for the dropout of LyCORIS layers."""
    spec, objective = DPO(algorithm="dpo", peft=peft), Preference(examples(2), torch.zeros(8, 2), 0.1)
    found = phases(Training(shape, spec, peft, objective, [[0, 1, 2, 3]], True))
    assert all(peak.total > 0 for peak in found.values())
    assert found["training"].activations == pytest.approx(taken(shape, spec, objective), rel=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_forecast_as_it_is_counted(method):
    assert_counted(config(), adapted(method))


@pytest.mark.parametrize("method", DRAWING_OR_SOFT)
def test_also_for_an_encoder_decoder(method):
    assert_counted(t5(), adapted(method))


def test_an_adapter_on_the_head_leaves_the_layout_to_the_models_own_logits():
    """As training does: no other layout can score with a head that is no matrix."""
    assert_counted(config(tied=False), adapted("lora", target_modules=["q_proj", "lm_head"]))


@pytest.mark.parametrize("method", DRAWING_OR_SOFT)
def test_ppo_is_forecast_with_methods_that_draw_or_are_soft_prompts(ppo_section, method):
    """A minibatch of 4 rollouts of 20 tokens answered by 6, with a critic on the policy's trunk: a step of language modelling."""
    spec = ppo_section(peft=adapted(method).model_dump(), rollouts=8, minibatches=2)
    found = {peak.phase: peak for peak in ppo_peaks(config(), spec, examples(1), 0, CPU)}
    assert {"training", "scoring", "sampling"} <= found.keys()
    answered = [Example(each.prompt, (np.zeros(6, np.int32),)) for each in examples(1)]
    assert found["training"].activations == pytest.approx(taken(config(), spec, LanguageModelling(answered)), rel=0.01)


def test_ppo_is_forecast_for_prompts_of_all_lengths_whatever_their_order(ppo_section):
    """8 rollouts of 24 prompts: of a sorted file the first 8 would be the shortest, and of another the longest."""
    prompts = [Example(np.zeros(length, np.int32), ()) for length in range(10, 82, 3)]
    spec = ppo_section(rollouts=8, minibatches=2)
    up, down = (ppo_peaks(config(), spec, order, 0, CPU) for order in (prompts, prompts[::-1]))
    assert up == down
    spread = ppo_peaks(config(), spec, prompts[2::3], 0, CPU)  # the longest, and every third
    assert up == spread


def test_ppo_is_forecast_to_sample_one_batch_at_a_time(ppo_section):
    """Of 512 rollouts 128 stand in the cache together."""
    prompts = [Example(np.zeros(20, np.int32), ())] * 512
    all_peaks = (ppo_peaks(config(), ppo_section(rollouts=rollouts), prompts, 0, CPU) for rollouts in (128, 512))
    one, four = ({peak.phase: peak for peak in peaks}["sampling"] for peaks in all_peaks)
    assert one.activations == four.activations


@pytest.mark.parametrize("method", ["lora", "last_layers"])
def test_a_reward_model_of_its_own_weights_stands_beside_the_policy_and_again_below_the_critic(ppo_section, method):
    """One that is a LoRA shares with the policy what that does not train, and so does its critic, or one that says 0."""
    size = 4 * sum(parameter.numel() for parameter in wrapped(config(), adapted("full")).parameters())
    moved = {"lora": 0, "last_layers": 4 * trainable_count(wrapped(config(), adapted("last_layers")))}[method]
    for init, copies in (("zero", 1), (None, 2)):
        peft = adapted(method).model_dump()
        spec = ppo_section(reward={"source": "model"}, value_model="adapter", critic={"init": init}, peft=peft)
        shared, own = (ppo_peaks(config(), spec, examples(1), 0, CPU, whole_reward=whole) for whole in (False, True))
        assert [b.weights - a.weights for a, b in zip(shared, own, strict=True)] == [copies * (size - moved)] * len(own)


SHAPE = {"source": "scratch", "hidden_size": 512, "layers": 8, "heads": 8, "kv_heads": 4, "intermediate_size": 1376,
         "vocab_size": 32_000, "tie_embeddings": False}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_predictions_are_within_a_quarter_of_what_the_quickstart_takes(tmp_path):
    """`posttrain check` against the stages' own metric."""
    recipe = ROOT / "deployments" / "recipes" / "quickstart.yaml"
    assert_close(*check_and_run(recipe, tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_predictions_are_within_a_quarter_of_what_50m_parameters_take(tmp_path, method):
    """A Llama shape of 54M parameters, on few tokens: every stage reaches its peak in its first steps."""
    peft = f"{{method: {method}}}"
    few = [
        "model=" + json.dumps(SHAPE), "pretrain.tokens=8192", f"sft.peft={peft}", f"alignment.peft={peft}", "data.holdout=0.95",
        "evaluation.prompts=16", "evaluation.max_new_tokens=8", "evaluation.gates={}", "registry=null",
    ]  # fmt: skip
    assert_close(*check_and_run(ROOT / "deployments" / "recipes" / "quickstart.yaml", tmp_path, *few))


def check_and_run(recipe: Path, folder: Path, *changes: str) -> tuple[dict, dict]:
    """Predicted and measured peaks in GB by stage."""
    words = [word for change in changes for word in ("--set", change)]

    def call(verb: str) -> dict:
        command = [sys.executable, "-m", "flows.cli", verb, str(recipe), *words, "--store", str(folder / "store"), "--json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode in (0, 3), done.stderr
        return json.loads(done.stdout)

    predicted = {stage: numbers["peak_memory_gb"] for stage, numbers in call("check")["memory"].items()}
    stages = call("run")["stages"]
    return predicted, {stage["name"]: stage["metrics"]["peak_memory_gb"] for stage in stages if stage["name"] in predicted}


def assert_close(predicted: dict, measured: dict) -> None:
    """To a quarter of what was measured."""
    assert predicted.keys() == measured.keys()
    assert predicted == pytest.approx(measured, rel=0.25)
