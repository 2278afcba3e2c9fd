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


def fp64(hidden: Tensor, head: Head, targets: Tensor, dtype: torch.dtype, outer: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities and gradients of operands rounded to `dtype`, all else in fp64."""
    leaves = [each.detach().to(dtype).double().requires_grad_() for each in (hidden, head.weight)]
    logprobs, *_ = plain(leaves[0], Head(leaves[1], None, head.scale, head.softcap), targets)
    return logprobs.detach(), list(torch.autograd.grad((logprobs * outer.double()).sum(), leaves))


@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.01), (torch.float16, 0.002), (torch.float32, 1e-5)])
def test_half_precision_loses_what_its_operands_lose_and_no_more(monkeypatch, dtype, tolerance, trains, softcap):
    """The products of a GPU, of the same operands. Half of the targets are nearly certain, where rounded logits make p > 1 and a
    rounded probability a gradient that does not go to 0."""
    monkeypatch.setattr(head_module, "operand_type", lambda hidden: dtype)
    torch.manual_seed(0)
    weight, targets = torch.randn(300, 32), torch.randint(0, 300, (40,))
    hidden = torch.where(torch.arange(40)[:, None] < 20, 0.5 * weight[targets], torch.randn(40, 32)).requires_grad_()
    head, outer = Head(weight.requires_grad_(trains), None, 1.0, softcap), torch.rand(40) + 0.5
    logprobs, _ = token_logprobs(hidden, head, targets)
    expected, gradients = fp64(hidden, head, targets, dtype, outer)
    assert (logprobs <= 0).all()
    torch.testing.assert_close(logprobs.double(), expected, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad((logprobs * outer).sum(), [hidden, weight] if trains else [hidden])
    for ours, exact in zip(found, gradients, strict=False):  # row by row: the small gradients of certain targets count, too
        assert ((ours - exact).norm(dim=-1) <= tolerance * exact.norm(dim=-1) + 2e-5).all()


@pytest.mark.parametrize("trains", [False, True])
def test_the_logprobs_are_as_near_to_fp64_as_torchs_at_128256_tokens(monkeypatch, trains):
    monkeypatch.undo()  # the blocks as they are
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(16, 64), torch.randn(128_256, 64), torch.randint(0, 128_256, (16,))
    hidden[8:] = 0.3 * weight[targets[8:]]
    exact = (hidden.double() @ weight.double().T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    theirs = (hidden @ weight.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    ours, _ = token_logprobs(hidden, Head(weight.requires_grad_(trains)), targets)
    assert (ours <= 0).all()
    assert (ours - exact).abs().mean() <= (theirs - exact).abs().mean()


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 9), size=st.floats(0.0, 60.0), temperature=st.sampled_from([0.3, 1.0]), seed=st.integers(0, 999))
def test_no_logprob_is_above_and_no_entropy_below_zero(rows, size, temperature, seed):
    torch.manual_seed(seed)
    hidden, weight = size * torch.randn(rows, 5), torch.randn(60, 5)
    best = (hidden @ weight.T).argmax(-1)
    assert (token_logprobs(hidden, Head(weight, temperature=temperature), best)[0] <= 0).all()
    assert (token_statistics(hidden, Head(weight, temperature=temperature), best)[0] >= 0).all()


def test_statistics_under_autocast_are_those_of_fp32():
    """bfloat16 makes ties of the most likely tokens and entropies that are off by 1e-2."""
    hidden, weight, _, targets = drawn(50, 31, 8, trains=False, bias=False)
    expected = token_statistics(hidden, Head(weight), targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_statistics(hidden, Head(weight), targets)
    assert all(map(torch.equal, found, expected))


def test_an_adapted_head_is_not_taken_for_its_base_matrix():
    """LoRA on lm_head starts as the identity, so a head that ignored it would pass every check at the start and train wrongly."""
    from peft import LoraConfig, get_peft_model

    config = LlamaConfig(vocab_size=31, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(config)
    assert head_of(model).weight is model.lm_head.weight
    adapted = get_peft_model(model, LoraConfig(target_modules=["lm_head"]))
    with pytest.raises(TypeError, match="not a plain matrix"):
        head_of(adapted.get_base_model())
