"""Packed = separate, prefix-shared = two sequences, every layout = the model's own logits: in value and in gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import posttrain.scoring.scorer as scoring
from posttrain.data.packing import Example, pack
from posttrain.scoring.scorer import Scorer
from posttrain.scoring.segment_attention import SEGMENTS

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


def assert_gradients_equal(ours: list[torch.Tensor], plain: list[torch.Tensor]) -> None:
    """To 1e-5 of the largest gradient of each tensor: sums over tokens run in another order."""
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * max(1.0, float(b.abs().max())), rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=6),
    shape=st.sampled_from([(4, 4), (4, 2), (4, 1)]),
    vocabulary=st.integers(11, 200),
    attention=st.sampled_from(["sdpa", "eager", SEGMENTS]),
)
def test_prefix_shared_pairs_equal_separate_sequences_in_value_and_gradient(lengths, shape, vocabulary, attention):
    rng = np.random.default_rng(1)
    model = llama(vocabulary, *shape)
    model.set_attn_implementation(attention)
    pairs = [example(rng, vocabulary, *sizes) for sizes in lengths]
    separate = [Example(e.prompt, (branch,)) for e in pairs for branch in e.branches]
    weights = torch.randn(sum(e.targets for e in pairs))

    def run(scorer: Scorer, batches: list[list[Example]]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        logprobs = torch.cat([scorer(batch).logprobs for batch in batches])
        (logprobs * weights).sum().backward()
        return logprobs.detach(), [p.grad.clone() for p in model.parameters()]

    together, grads = run(Scorer(model, CPU), [pairs])
    alone, plain_grads = run(Scorer(model, CPU, layout="plain"), [[e] for e in separate])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert_gradients_equal(grads, plain_grads)


def t5(**changes) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    shape = {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.0,
    }
    return T5ForConditionalGeneration(T5Config(vocab_size=97, **shape | changes))


@pytest.mark.parametrize(
    "changes", [{}, {"scale_decoder_outputs": False}, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}]
)
def test_encoder_decoder_pairs_equal_the_models_own_loss(changes):
    """A pair's prompt is encoded once; scores and gradients are those of separate calls with labels."""
    rng = np.random.default_rng(0)
    model = t5(**changes)
    pairs = [example(rng, 97, 7, 5, 9), example(rng, 97, 3, 4, 2)]
    scorer = Scorer(model.eval(), CPU)
    assert scorer.layout == "encoder_decoder"

    def run(layout: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        sums = Scorer(model, CPU, layout=layout)(pairs).per_branch()
        (sums * torch.tensor([1.0, -1.0, 0.5, 2.0])).sum().backward()
        return sums.detach(), [p.grad.clone() for p in model.parameters()]

    (ours, grads), (plain, plain_grads) = run("encoder_decoder"), run("plain")
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    assert_gradients_equal(grads, plain_grads)


def test_neftune_noise_has_the_reach_of_the_paper_and_only_while_training():
    """Sequences of 4 + 5 = 9 and 20 + 30 = 50 tokens, width 32, alpha 6: uniform in ±6 / sqrt(9 * 32) and ±6 / sqrt(50 * 32)."""
    model, rng, seen = llama(), np.random.default_rng(0), []
    examples = [example(rng, 97, 4, 5), example(rng, 97, 20, 30)]
    scorer = Scorer(model, CPU, neftune=6.0)
    model.model.register_forward_pre_hook(lambda module, args, given: seen.append(given), with_kwargs=True)
    scorer.train()(examples)
    scorer.eval()(examples)
    assert "inputs_embeds" not in seen[1]
    noise = (seen[0]["inputs_embeds"] - model.get_input_embeddings()(seen[1]["input_ids"])).abs().detach()
    owner = pack(examples, token_cost=6 * 32).owner
    for number, length in enumerate((9, 50)):
        reach, largest = 6 / (length * 32) ** 0.5, float(noise[owner == number].max())
        assert 0.9 * reach < largest <= reach + 1e-6


def test_statistics_are_computed_only_when_asked_for():
    rng = np.random.default_rng(0)
    scorer, pairs = Scorer(llama().eval(), CPU), [example(rng, 97, 7, 5, 9)]
    assert scorer(pairs).entropy is None
    scores = scorer(pairs, statistics=True)
    assert scores.entropy.shape == scores.top1.shape == scores.logprobs.shape
    assert 0 < float(scores.entropy.min()) <= float(scores.entropy.max()) < np.log(97) + 1e-4


def test_per_branch_sums_by_hand():
    """Branches 0, 1, 1, 0 with scores 1, 2, 3, 4 sum to 5 and 5; an untouched third branch is 0."""
    scores = scoring.TokenScores(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0, 1, 1, 0]), 3)
    assert scores.per_branch().tolist() == [5.0, 5.0, 0.0]


def test_rows_that_end_in_different_columns_are_scored_by_the_models_logits():
    """A long prompt with a short response beside a short one: between their targets are columns without any."""
    torch.manual_seed(0)
    model, rng = LlamaForCausalLM(LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                                              num_attention_heads=4)).eval(), np.random.default_rng(0)  # fmt: skip
    examples = [example(rng, 97, 23, 8), example(rng, 97, 5, 4)]
    whole, packed = (Scorer(model, CPU, layout=layout)(examples) for layout in ("plain", "packed"))
    assert len(whole.logprobs) == 12
    torch.testing.assert_close(whole.logprobs, packed.logprobs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole.per_branch(), packed.per_branch(), atol=1e-5, rtol=1e-5)
