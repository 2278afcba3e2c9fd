"""Rates that are measured, and times that follow from them by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from posttrain.data.packing import Example
from posttrain.forecast import duration
from posttrain.forecast.duration import Rates, Seconds, measured_rates
from posttrain.forecast.phases import Arithmetic
from posttrain.forecast.stage_times import BESIDE, Passed
from posttrain.models.architectures import auto_class
from schemas.training import Full, LoRA

CPU = Arithmetic(torch.device("cpu"), torch.float32)
CONFIG = LlamaConfig(vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=8, num_attention_heads=4,
                     num_key_value_heads=2)  # fmt: skip
LORA, FULL = LoRA(method="lora", r=4), Full(method="full")


def pairs(lengths: list[int]) -> list[Example]:
    return [Example(np.zeros(n, np.int32), (np.zeros(8, np.int32),) * 2) for n in lengths]


def test_every_rate_of_every_method_is_measured():
    rates = measured_rates(
        lambda: auto_class(CONFIG).from_config(CONFIG), CONFIG, {LORA: (), FULL: ()}, pairs([20, 30, 90]), 8, CPU
    )
    assert rates.train.keys() == {LORA, FULL}
    assert all(0 < rate < 1 for rate in (rates.score, rates.step, *rates.train.values()))


def test_a_model_that_is_too_large_is_measured_by_its_first_blocks_alone(monkeypatch):
    """A quarter of the bytes: two blocks of eight. The time is that of the part, divided by its share of the weights."""
    bytes_of_all = 4 * sum(p.numel() for p in auto_class(CONFIG).from_config(CONFIG).parameters())
    monkeypatch.setattr(duration, "WHOLE", bytes_of_all // 4)

    def load():
        pytest.fail("the whole model was loaded")

    model, share = duration._as_much_as_fits(load, CONFIG, CPU.device)
    assert model.config.num_hidden_layers == 2
    assert 0.25 < share < 0.3  # the embeddings are whole
    assert measured_rates(load, CONFIG, {LORA: ()}, pairs([20] * 4), 8, CPU).score > 0


def test_measured_examples_are_as_long_as_most_and_fill_a_pass():
    few = duration._usual(pairs([4, 100, 20, 1000, 30]))
    assert [len(example.prompt) for example in few] == [30, 100, 1000, 30, 100, 1000][: len(few)]
    assert sum(example.length for example in few) >= duration.PASS_TOKENS


def test_seconds_of_a_stage_by_hand():
    """1,000 tokens scored at 2 ms, 500 trained at 10 ms and what lies beside: 2 + 5 + 4 = 11 s. 100 tokens drawn at 40 ms are 4 s
    where no answer ends early: 3 are expected, 1 at the least, 1.4 · 4 at the most."""
    rates = Rates(score=0.002, step=0.04, train={LORA: 0.01})
    found = Passed(scored=1000, trained=500, sampled=100).seconds(rates, LORA)
    assert BESIDE == 4
    assert (found.expected, found.low, found.high) == pytest.approx((14, 0.8 * 11 + 1, 1.4 * 15))


def test_seconds_are_shown_with_two_digits_and_long_ones_whole():
    assert Seconds(3.456, 0.123, 1234.5).rounded() == {"expected": 3.5, "low": 0.12, "high": 1234}
