"""The blocked head against plain log_softmax: value, normaliser and gradient, for every shape of head."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import posttrain.scoring.output_head as head_module
from posttrain.scoring.output_head import Head, head_of, token_logprobs, token_statistics


@pytest.fixture(autouse=True)
def _narrow_blocks(monkeypatch):
    """Blocks of 7 columns, so that small vocabularies need many, the last one narrower."""
    monkeypatch.setattr(head_module, "MIN_COLUMNS", 7)
    monkeypatch.setattr(head_module, "BLOCK_ELEMENTS", {"cpu": 1})


def plain(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, normaliser and logits with nothing but the definition."""
    logits = head.scale * nn.functional.linear(hidden, head.weight, head.bias)
    logits = logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0], logits.logsumexp(-1), logits


def drawn(
    n: int, vocabulary: int, width: int, *, trains: bool, bias: bool, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    torch.manual_seed(seed)
    hidden = torch.randn(n, width).requires_grad_()
    weight = torch.randn(vocabulary, width).requires_grad_(trains)
    offsets = torch.randn(vocabulary).requires_grad_(trains) if bias else None
    return hidden, weight, offsets, torch.randint(0, vocabulary, (n,))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40), vocabulary=st.integers(2, 200), width=st.integers(1, 12), trains=st.booleans(), bias=st.booleans(),
    scale=st.sampled_from([1.0, 0.5, 2.0]), softcap=st.sampled_from([None, 3.0, 30.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_plain_log_softmax_in_value_and_gradient(n, vocabulary, width, trains, bias, scale, softcap, seed):
    hidden, weight, offsets, targets = drawn(n, vocabulary, width, trains=trains, bias=bias, seed=seed)
    head, outer = Head(weight, offsets, scale, softcap), torch.randn(2, n)
    leaves = [t for t in (hidden, weight, offsets) if t is not None and t.requires_grad]
    ours, expected = token_logprobs(hidden, head, targets), plain(hidden, head, targets)[:2]
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    loss, plain_loss = ((a * outer[0]).sum() + (z * outer[1]).sum() for a, z in (ours, expected))
    for a, b in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(plain_loss, leaves), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_value_by_hand():
    """Hidden 1, weights (0, ln 2, ln 5): logits are 0, ln 2, ln 5; Z = 1 + 2 + 5 = 8; log p of the second is ln(2/8)."""
    weight = torch.tensor([[1.0], [2.0], [5.0]]).log()
    logprobs, normaliser = token_logprobs(torch.ones(1, 1), Head(weight), torch.tensor([1]))
    torch.testing.assert_close(logprobs, torch.tensor([0.25]).log())
    torch.testing.assert_close(normaliser, torch.tensor([8.0]).log())


def test_large_logits_neither_overflow_nor_vanish():
    hidden, weight = torch.full((1, 1), 300.0), torch.arange(-10.0, 11.0)[:, None]
    logprobs, _ = token_logprobs(hidden, Head(weight), torch.tensor([20]))
    assert logprobs.item() == 0.0


@pytest.mark.parametrize("softcap", [None, 4.0])
def test_entropy_and_top1_equal_the_definition(softcap):
    hidden, weight, bias, targets = drawn(50, 31, 8, trains=False, bias=True)
    head = Head(weight, bias, 1.0, softcap)
    *_, logits = plain(hidden, head, targets)
    p = logits.softmax(-1)
    entropy, top1 = token_statistics(hidden, head, torch.cat([logits.argmax(-1)[:25], targets[25:]]))
    torch.testing.assert_close(entropy, -(p * p.log()).sum(-1), atol=1e-5, rtol=1e-5)
    assert top1[:25].tolist() == [1.0] * 25
    assert top1[25:].tolist() == (logits.argmax(-1) == targets)[25:].float().tolist()


@pytest.mark.parametrize("trains", [False, True])
def test_autocast_on_a_cpu_leaves_the_head_in_fp32(trains):
    """Of hidden states in bfloat16 too: the logits of a block, rounded, would make log-probabilities above 0."""
    hidden, weight, _, targets = drawn(20, 40, 16, trains=trains, bias=False)
    leaves = [hidden, weight] if trains else [hidden]
    exact, _ = token_logprobs(hidden, Head(weight), targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logprobs, _ = token_logprobs(hidden, Head(weight), targets)
        halved, _ = token_logprobs(hidden.bfloat16(), Head(weight), targets)
    assert torch.equal(logprobs, exact)
    assert halved.dtype == torch.float32
    assert (halved <= 0).all()
    torch.testing.assert_close(halved, token_logprobs(hidden.bfloat16().float(), Head(weight), targets)[0])
    for ours, expected in zip(torch.autograd.grad(logprobs.sum(), leaves), torch.autograd.grad(exact.sum(), leaves), strict=True):
        assert torch.equal(ours, expected)


def test_an_adapted_head_is_not_taken_for_its_base_matrix():
    """LoRA on lm_head starts as the identity, so a head that ignored it would pass every check at the start and train wrongly."""
    from peft import LoraConfig, get_peft_model

    config = LlamaConfig(vocab_size=31, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(config)
    assert head_of(model).weight is model.lm_head.weight
    adapted = get_peft_model(model, LoraConfig(target_modules=["lm_head"]))
    with pytest.raises(TypeError, match="not a plain matrix"):
        head_of(adapted.get_base_model())
