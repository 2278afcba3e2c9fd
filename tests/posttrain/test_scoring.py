"""Packed = separate, prefix-shared = two sequences, chunked = plain log_softmax: in value and in gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import posttrain.scoring as scoring
from posttrain.packing import Example
from posttrain.scoring import Head, Scorer, choose_layout, packing_error, token_logprobs

CPU = torch.device("cpu")


def llama(vocabulary: int = 97, heads: int = 4, kv_heads: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            tie_word_embeddings=True,
        )
    )


def example(rng: np.random.Generator, vocabulary: int, prompt: int, *branches: int) -> Example:
    def draw(n: int) -> np.ndarray:
        return rng.integers(0, vocabulary, n).astype(np.int32)

    return Example(draw(prompt), tuple(draw(n) for n in branches))


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=6),
    shape=st.sampled_from([(4, 4), (4, 2), (4, 1)]),
    vocabulary=st.integers(11, 200),
)
def test_prefix_shared_pairs_equal_separate_sequences_in_value_and_gradient(lengths, shape, vocabulary):
    rng = np.random.default_rng(1)
    model = llama(vocabulary, *shape)
    pairs = [example(rng, vocabulary, *sizes) for sizes in lengths]
    separate = [Example(e.prompt, (branch,)) for e in pairs for branch in e.branches]
    weights = torch.randn(sum(e.targets for e in pairs))

    def run(scorer: Scorer, batches: list[list[Example]]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        logprobs = torch.cat([scorer(batch).logprobs for batch in batches])
        (logprobs * weights).sum().backward()
        return logprobs.detach(), [p.grad.clone() for p in model.parameters()]

    together, grads = run(Scorer(model, CPU), [pairs])
    alone, plain_grads = run(Scorer(model, CPU, packed=False), [[e] for e in separate])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    for ours, plain in zip(grads, plain_grads, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("trainable_head", [False, True])
@pytest.mark.parametrize(
    ("scale", "softcap", "with_bias"), [(1.0, None, False), (0.5, None, True), (2.0, 5.0, True), (1.0, 3.0, False)]
)
def test_chunked_head_equals_plain_log_softmax(monkeypatch, trainable_head, scale, softcap, with_bias):
    monkeypatch.setattr(scoring, "CHUNK_ELEMENTS", 1)  # chunks of 16 rows, so that 50 rows need four
    torch.manual_seed(0)
    hidden = torch.randn(50, 8, dtype=torch.float64).float().requires_grad_()
    weight = torch.randn(31, 8).requires_grad_(trainable_head)
    bias = torch.randn(31).requires_grad_(trainable_head) if with_bias else None
    targets, outer = torch.randint(0, 31, (50,)), torch.randn(50)

    def plain() -> torch.Tensor:
        logits = scale * torch.nn.functional.linear(hidden, weight, bias)
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]

    leaves = [t for t in (hidden, weight, bias) if t is not None and t.requires_grad]
    expected, ours = plain(), token_logprobs(hidden, Head(weight, bias, scale, softcap), targets)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    for a, b in zip(
        torch.autograd.grad((ours * outer).sum(), leaves), torch.autograd.grad((expected * outer).sum(), leaves), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64))


def gemma2() -> Gemma2ForCausalLM:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, final_logit_softcapping=5.0, attn_implementation="eager",
    )  # fmt: skip
    return Gemma2ForCausalLM(config)


@pytest.mark.parametrize("build", [llama, gpt2, gemma2])
def test_start_up_check_accepts_models_whose_packing_is_exact(build):
    rng = np.random.default_rng(0)
    scorer = Scorer(build().eval(), CPU)
    pairs = [example(rng, 97, 7, 5, 9), example(rng, 97, 3, 4, 2)]
    assert packing_error(scorer, pairs) < 1e-5
    assert choose_layout(scorer, pairs).startswith("packed")
    assert scorer.packed


def test_start_up_check_falls_back_where_the_model_ignores_the_mask():
    """An attention that drops the block mask lets packed sequences see each other: scores move, so the padded path is taken."""
    model = llama().eval()
    attention = model.model.forward
    model.model.forward = lambda *a, attention_mask=None, **k: attention(*a, **k, attention_mask=None)
    rng = np.random.default_rng(0)
    scorer = Scorer(model, CPU)
    verdict = choose_layout(scorer, [example(rng, 97, 7, 5, 9), example(rng, 97, 3, 4, 2)])
    assert verdict.startswith("padded: packing would change")
    assert not scorer.packed


def test_per_branch_sums_by_hand():
    """Branches 0, 1, 1, 0 with scores 1, 2, 3, 4 sum to 5 and 5; an untouched third branch is 0."""
    scores = scoring.TokenScores(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0, 1, 1, 0]), 3)
    assert scores.per_branch().tolist() == [5.0, 5.0, 0.0]
