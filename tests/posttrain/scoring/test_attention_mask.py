"""Masks cell by cell: windows count positions of a sequence, and every form of a mask shows the same keys."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.data.packing import Example, pack
from posttrain.scoring.attention_mask import attention_mask, layer_windows, visible_keys
from posttrain.scoring.scorer import Scorer


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


PAIR = pack([Example(ints(1, 2, 3), (ints(4, 5), ints(6, 7)))])


def test_a_window_counts_positions_and_not_places_in_the_row():
    """Prompt at 0-2, branches at positions 3-4: columns 3-4 and 5-6. With a window of 3 the last token of the second branch
    (position 4, column 6) sees positions 2-4: column 2 of the prompt and its own branch, not the first branch between them."""
    assert visible_keys(PAIR, window=3)[0, 0, 6].nonzero()[:, 0].tolist() == [2, 5, 6]
    assert visible_keys(PAIR)[0, 0, 6].nonzero()[:, 0].tolist() == [0, 1, 2, 5, 6]


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        ({}, {None: None}),
        ({"sliding_window": 8}, {None: 8}),
        ({"layer_types": ["full_attention", "full_attention"], "sliding_window": 8}, {"full_attention": None}),
        (
            {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8},
            {"sliding_attention": 8, "full_attention": None},
        ),
    ],
)
def test_windows_by_layer_type(config, windows):
    assert layer_windows(SimpleNamespace(**config)) == windows


@pytest.mark.parametrize("window", [None, 3])
def test_eager_attention_takes_the_same_mask_as_numbers_to_add(window):
    config = SimpleNamespace(_attn_implementation="eager", sliding_window=window)
    added = attention_mask(config, PAIR)
    assert ((added == 0) == visible_keys(PAIR, window)).all()
    assert added.min() == torch.finfo(torch.float32).min


@pytest.mark.slow  # compiles a kernel
def test_flex_attention_computes_the_same_scores():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=97, hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2)  # fmt: skip
    model, rng = LlamaForCausalLM(config).eval(), np.random.default_rng(0)
    sizes = [(70, 40, 30), (20, 10, 200)]
    pairs = [Example(rng.integers(0, 97, p), tuple(rng.integers(0, 97, n) for n in ns)) for p, *ns in sizes]
    scorer = Scorer(model, torch.device("cpu"))
    with torch.no_grad():
        expected = scorer(pairs).logprobs
        model.set_attn_implementation("flex_attention")
        torch.testing.assert_close(scorer(pairs).logprobs, expected, atol=1e-5, rtol=1e-5)
