"""Segments by hand, and segment attention against one mask over the whole row."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from posttrain.data.packing import Example, in_one_row
from posttrain.scoring.attention_mask import visible_keys
from posttrain.scoring.scorer import Scorer
from posttrain.scoring.segment_attention import SEGMENTS, segment_attention, segments_of

CPU = torch.device("cpu")


def example(prompt: int, *branches: int) -> Example:
    return Example(np.zeros(prompt, np.int32), tuple(np.zeros(n, np.int32) for n in branches))


def test_segments_of_a_pair_and_a_single_by_hand():
    """3 + (2, 4) and 5 + (1): prompt and first branch are one run of queries; every branch sees its prompt and itself."""
    found = segments_of([example(3, 2, 4), example(5, 1)])
    assert found.pieces == [3, 2, 4, 5, 1]
    assert found.queries == [5, 4, 6]
    assert found.sees == [(0, 1), (0, 2), (3, 4)]


def test_padding_is_one_more_run_that_sees_itself():
    found = segments_of([example(3, 2)], padding=4)
    assert (found.pieces, found.queries, found.sees) == ([3, 2, 4, 0], [5, 4], [(0, 1), (2, 3)])


@pytest.mark.parametrize("window", [None, 3, 100])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("padding", [0, 5])
def test_equals_attention_under_a_mask_in_value_and_gradient(window, kv_heads, padding):
    torch.manual_seed(0)
    examples = [example(3, 2, 4), example(5, 1), example(1, 7, 2, 3)]
    tokens = sum(e.length for e in examples)
    query, key, value = (torch.randn(1, heads, tokens + padding, 8, requires_grad=True) for heads in (4, kv_heads, kv_heads))
    outer, mask = torch.randn(1, 4, tokens, 8), visible_keys(in_one_row(examples, padding), window)
    segments = segments_of(examples, padding)
    ours, _ = segment_attention(None, query, key, value, None, sliding_window=window, segments=segments)
    assert ours.shape == (1, tokens + padding, 4, 8)
    ours = ours[:, :tokens]
    masked = scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)[:, :, :tokens]
    torch.testing.assert_close(ours.transpose(1, 2), masked, atol=1e-5, rtol=1e-5)
    for a, b in zip(
        torch.autograd.grad((ours.transpose(1, 2) * outer).sum(), (query, key, value)),
        torch.autograd.grad((masked * outer).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_model_in_segments_generates_and_is_saved_as_one_without(tiny_llama, tmp_path):
    """The attention is how this process computes, nothing of the model's."""
    model, ids = tiny_llama(), torch.tensor([[5, 6, 7], [8, 9, 3]])
    expected = model.generate(ids, max_new_tokens=5, do_sample=False)
    model.set_attn_implementation(SEGMENTS)
    assert torch.equal(model.generate(ids, max_new_tokens=5, do_sample=False), expected)
    model.save_pretrained(tmp_path)
    assert SEGMENTS not in json.dumps(json.loads((tmp_path / "config.json").read_text()))


def test_rows_of_many_lengths_reach_the_model_in_a_few_widths_and_score_the_same(tiny_llama):
    """From 40 to 60 tokens: 40, 44, 48, 52, 56 and 60."""
    model = tiny_llama()
    rows = [Example(np.arange(2, 12, dtype=np.int32), (np.arange(2, 2 + n, dtype=np.int32),)) for n in range(30, 51)]
    expected = [Scorer(model, CPU, layout="plain")([row]).logprobs for row in rows]
    widths: set[int] = set()
    model.get_input_embeddings().register_forward_pre_hook(lambda module, given: widths.add(given[0].shape[1]))
    model.set_attn_implementation(SEGMENTS)
    scored = [Scorer(model, CPU)([row]).logprobs for row in rows]
    assert widths == {40, 44, 48, 52, 56, 60}
    for one, other in zip(scored, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
