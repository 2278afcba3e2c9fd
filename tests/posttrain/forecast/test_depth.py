"""Peaks of deep models from shallow ones, against the trace of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BloomConfig, DeepseekV3Config, Gemma3TextConfig, LlamaConfig, PreTrainedConfig, T5Config

from posttrain.data.packing import Example
from posttrain.forecast.depth import peaks_of, shortened
from posttrain.forecast.peaks import Training, evaluation_peaks, training_peaks
from posttrain.forecast.phases import Arithmetic, Peak
from posttrain.training.objectives import LanguageModelling, Preference
from schemas.peft import LastLayers
from schemas.training import DPO, SFT, LoRA

CPU = Arithmetic(torch.device("cpu"), torch.float32)
SHAPE = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
T5 = T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=7, num_heads=4, decoder_start_token_id=1)
NINE = LlamaConfig(**SHAPE, num_hidden_layers=9)
TURNS = Gemma3TextConfig(**SHAPE, head_dim=8, num_hidden_layers=12, sliding_window=16, sliding_window_pattern=3)


def examples(branches: int) -> list[Example]:
    return [Example(np.zeros(20, np.int32), (np.zeros(10, np.int32),) * branches) for _ in range(8)]


def lora_dpo(config: PreTrainedConfig) -> Training:
    peft = LoRA(method="lora", r=4)
    pairs = Preference(examples(2), torch.zeros(8, 2), 0.1)
    return Training(config, DPO(algorithm="dpo", peft=peft), peft, pairs, [[0, 1, 2, 3]], True)


def traced_blocks(monkeypatch, run) -> tuple[list[Peak], list[int]]:
    """What `run()` returns, and how many blocks the models had that were traced."""
    seen: list[int] = []

    def watched(config, trace, least=0):
        def each(some):
            seen.append(some.num_hidden_layers)
            return trace(some)

        return peaks_of(config, each, least)

    with monkeypatch.context() as patch:
        patch.setattr("posttrain.forecast.peaks.peaks_of", watched)
        return run(), seen


def whole(monkeypatch, run) -> list[Peak]:
    with monkeypatch.context() as patch:
        patch.setattr("posttrain.forecast.peaks.peaks_of", lambda config, trace, least=0: trace(config))
        return run()


@pytest.mark.parametrize(
    ("config", "blocks"), [(NINE, [2, 3]), (TURNS, [3, 4]), (T5, [2, 3])],
    ids=["llama", "sliding and full attention in turns", "t5"],
)  # fmt: skip
def test_training_a_deep_model_takes_what_the_trace_of_all_its_blocks_says(config, blocks, monkeypatch):
    found, seen = traced_blocks(monkeypatch, lambda: training_peaks(lora_dpo(config), CPU))
    assert seen == blocks
    for peak, expected in zip(found, whole(monkeypatch, lambda: training_peaks(lora_dpo(config), CPU)), strict=True):
        assert peak.phase == expected.phase
        assert peak.total == pytest.approx(expected.total, rel=0.05)
        assert peak.passing == pytest.approx(expected.passing, rel=0.1)
        assert peak.weights == pytest.approx(expected.weights, rel=0.01)  # rotary positions of each type of attention


def test_evaluating_one_too(monkeypatch):
    def run():
        return evaluation_peaks(NINE, [20] * 8, 16, examples(2), CPU)

    found, seen = traced_blocks(monkeypatch, run)
    assert seen == [6, 7]
    assert [peak.total for peak in found] == pytest.approx([peak.total for peak in whole(monkeypatch, run)], rel=0.01)


def test_a_method_that_trains_the_last_blocks_has_them_all_in_the_shallow_models(monkeypatch):
    peft = LastLayers(method="last_layers", layers=3)
    stage = Training(NINE, SFT(peft=peft), peft, LanguageModelling(examples(1)), [[0]], False)
    found, seen = traced_blocks(monkeypatch, lambda: training_peaks(stage, CPU))
    assert seen == [4, 5]
    expected = whole(monkeypatch, lambda: training_peaks(stage, CPU))
    assert [(p.gradients, p.optimizer, p.weights) for p in found] == [(p.gradients, p.optimizer, p.weights) for p in expected]


def test_blocks_that_are_not_alike_are_all_traced(monkeypatch):
    """The first three blocks of this model have no experts."""
    config = DeepseekV3Config(
        **SHAPE, num_hidden_layers=8, first_k_dense_replace=3, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
        moe_intermediate_size=16, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
    )  # fmt: skip
    seen: list[int] = []
    peaks_of(config, lambda some: seen.append(some.num_hidden_layers) or [])
    assert seen == [8]


def test_a_method_that_names_a_block_by_its_number_is_traced_as_a_whole(monkeypatch):
    peft = LoRA(method="lora", r=4, target_modules=("layers.7.self_attn.q_proj",))
    stage = Training(NINE, SFT(peft=peft), peft, LanguageModelling(examples(1)), [[0]], False)
    _, seen = traced_blocks(monkeypatch, lambda: training_peaks(stage, CPU))
    assert seen == [2, 9]


def test_a_shorter_config_has_blocks_of_each_type():
    short = shortened(TURNS, 3)
    assert TURNS.layer_types[:4] == ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    assert short.layer_types == ["sliding_attention", "full_attention", "sliding_attention"]
    assert short.num_hidden_layers == 3
    assert (shortened(T5, 2).num_layers, shortened(T5, 2).num_decoder_layers) == (2, 2)
    assert TURNS.num_hidden_layers == len(TURNS.layer_types) == 12


def test_a_model_that_refuses_packed_rows_has_a_forecast_too():
    """BLOOM, by what a run falls back to."""
    config = BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4)
    assert [peak.phase for peak in training_peaks(lora_dpo(config), CPU)] == ["start-up check", "reference scoring", "training"]
    assert [peak.phase for peak in evaluation_peaks(config, [8, 8], 4, examples(2), CPU)][-1] == "sampling"
