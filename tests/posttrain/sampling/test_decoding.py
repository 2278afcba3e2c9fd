"""The decoding loop against transformers' own, and its draws against the exact distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

import posttrain.sampling.decoding as decoding
import posttrain.sampling.sampler as rollouts
from posttrain.sampling.decoding import can_decode
from posttrain.sampling.sampler import Sampling, sample

EOS, PAD, VOCABULARY = 0, 1, 24
COLD = 1e-4  # so low a temperature that the most likely token is always drawn
ENDS = {"vocab_size": VOCABULARY, "eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": None}
SHAPE = ENDS | {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
                "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.4}  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "gpt2": GPT2Config(**ENDS, n_embd=32, n_inner=48, n_layer=2, n_head=4, n_positions=48, initializer_range=0.4),
    "opt": OPTConfig(**ENDS, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, init_std=0.4,
                     word_embed_proj_dim=32, max_position_embeddings=48),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=5),
    "gemma2": Gemma2Config(**SHAPE, sliding_window=5, final_logit_softcapping=4.0, attn_logit_softcapping=3.0),
    "gemma3": Gemma3TextConfig(**SHAPE, sliding_window=5),
}  # fmt: skip


def build(name: str):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


@pytest.fixture
def model():
    return build("llama")


@pytest.fixture
def prompts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(2, VOCABULARY, n).astype(np.int32) for n in (7, 1, 12, 3, 5, 9, 2, 7, 12)]


def plan(limit: int, temperature: float = 1.0, **changes) -> Sampling:
    return Sampling(**{"max_new_tokens": limit, "temperature": temperature, "seed": 0, "ends": (EOS,), "pad": PAD} | changes)


def generated(model, prompts, limit: int) -> list[list[int]]:
    """What transformers' greedy search gives for the same prompts, padded on the left in one batch, without an EOS."""
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(p)) + p.tolist() for p in prompts])
    attended = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    model.generation_config.eos_token_id = None
    return model.generate(ids, attention_mask=attended, max_new_tokens=limit, do_sample=False)[:, width:].tolist()


def cut(responses: list[list[int]], eos: int) -> list[list[int]]:
    return [row[: row.index(eos) + 1] if eos in row else row for row in responses]


@pytest.mark.parametrize("budget", [2**12, 20])
@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_are_those_of_transformers(name, budget, prompts, monkeypatch):
    """Prompts of 1 to 12 tokens, encoded together or in groups of at most 20 tokens; windows of 5 tokens are left behind.

    EOS is the token with which the responses end at the most different lengths.
    """
    monkeypatch.setitem(decoding.PROMPT_TOKENS, "cpu", budget)
    model = build(name)
    assert can_decode(model)
    expected = generated(model, prompts, 30)
    eos = max(range(VOCABULARY), key=lambda token: len(set(map(len, cut(expected, token)))))
    assert len(set(map(len, cut(expected, eos)))) > 1
    assert [tokens.tolist() for (tokens,) in sample(model, prompts, plan(30, COLD, ends=(eos,)))] == cut(expected, eos)
    assert [tokens.tolist() for (tokens,) in sample(model, prompts, plan(30, COLD, ends=()))] == expected


def test_any_of_several_tokens_ends_a_response(prompts):
    """Each is cut where the first of two tokens comes."""
    model = build(next(iter(CONFIGS)))
    expected = generated(model, prompts, 30)
    ends = (expected[0][3], expected[1][5])
    cut_at = [next((at + 1 for at, token in enumerate(row) if token in ends), None) for row in expected]
    found = [tokens.tolist() for (tokens,) in sample(model, prompts, plan(30, COLD, ends=ends))]
    assert found == [row[:at] for row, at in zip(expected, cut_at, strict=True)]
    assert {row[-1] for row in found} >= set(ends)


def test_what_is_more_than_keys_and_values_is_left_to_transformers():
    torch.manual_seed(0)
    t5 = AutoModelForSeq2SeqLM.from_config(T5Config(vocab_size=12, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    mamba = AutoModelForCausalLM.from_config(MambaConfig(**ENDS, hidden_size=16, num_hidden_layers=1, state_size=4))
    assert not can_decode(t5)
    assert not can_decode(mamba)


class Watched:
    """Notes the shape of the ids of every forward pass of a model's body."""

    def __init__(self, model) -> None:
        self.shapes: list[tuple[int, int]] = []
        model.base_model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module, args, kwargs) -> None:
        self.shapes.append(tuple(kwargs["input_ids"].shape))


def test_a_prompt_is_encoded_once_for_all_its_samples(model, prompts):
    """Prompts of 7, 1 and 12 tokens: all but the last token once, and the last one with the first token of every sample."""
    seen = Watched(model)
    responses = sample(model, prompts[:3], plan(4, samples=5, ends=()))
    assert [len(tokens) for row in responses for tokens in row] == [4] * 15
    assert [len(row) for row in responses] == [5, 5, 5]
    assert seen.shapes == [(3, 11), (15, 1), (15, 1), (15, 1), (15, 1)]
    assert len({tuple(tokens.tolist()) for tokens in responses[0]}) > 1


def test_samples_of_a_prompt_may_fall_into_several_batches(model, prompts, monkeypatch):
    """Greedy samples of one prompt are equal, whichever batch of 4 they fall into, and stand with their prompt."""
    monkeypatch.setattr(rollouts, "BATCH", 4)
    responses = sample(model, prompts, plan(6, COLD, samples=3))
    alone = sample(model, prompts, plan(6, COLD))
    assert [[t.tolist() for t in row] for row in responses] == [[row[0].tolist()] * 3 for row in alone]


def test_rows_that_ended_leave_the_batch_and_an_empty_one_stops(model, prompts):
    seen = Watched(model)
    responses = sample(model, prompts * 4, plan(400, 3.0))
    longest = max(len(tokens) for (tokens,) in responses)
    rows = [rows for rows, _ in seen.shapes[1:]]
    assert len(rows) == longest < 400
    assert rows == sorted(rows, reverse=True)
    alive = [sum(len(tokens) > step for (tokens,) in responses) for step in range(longest)]
    assert all(a <= r <= a * decoding.DROP / (decoding.DROP - 1) for a, r in zip(alive, rows, strict=True))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_two_tokens_have_the_joint_distribution_of_the_model(model, temperature, chi_square):
    """p(a, b) = p(a) p(b | a), each softmax(logits / T) of a plain forward pass; half of the draws are samples of one prompt."""
    prompt = np.array([5, 9, 3], np.int32)
    with torch.no_grad():
        p = (model(torch.tensor([[5, 9, 3]])).logits[0, -1] / temperature).softmax(-1)
        after = torch.tensor([[5, 9, 3, token] for token in range(VOCABULARY)])
        joint = (p[:, None] * (model(after).logits[:, -1] / temperature).softmax(-1)).double().numpy()
    apart = sample(model, [prompt] * 8000, plan(2, temperature, ends=()))
    (together,) = sample(model, [prompt], plan(2, temperature, ends=(), samples=8000, seed=1))
    for drawn in ([row[0] for row in apart], together):
        counts = np.zeros((VOCABULARY, VOCABULARY))
        np.add.at(counts, tuple(np.stack(drawn).T), 1)
        assert abs(chi_square(counts.ravel(), joint.ravel())) < 4


def test_a_policy_of_not_a_number_is_refused(model, prompts):
    torch.nn.init.constant_(model.model.norm.weight, torch.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        sample(model, prompts, plan(3))


@torch.no_grad()
def test_one_row_of_not_a_number_is_enough(model, prompts):
    """Token 21 is in one of the prompts alone."""
    assert sum(21 in prompt for prompt in [*prompts[:2], np.array([21, 3], np.int32)]) == 1
    model.model.embed_tokens.weight[21] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        sample(model, [*prompts[:2] * 8, np.array([21, 3], np.int32)], plan(4, ends=()))


def test_arithmetic_is_that_of_the_active_autocast(model, prompts):
    """In bfloat16 the drawn tokens are the most likely ones up to its precision (8 bits of logits of size 10 or so)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        responses = sample(model, prompts, plan(8, COLD))
    with torch.no_grad():
        for prompt, (tokens,) in zip(prompts, responses, strict=True):
            logits = model(torch.tensor([prompt.tolist() + tokens.tolist()])).logits[0, len(prompt) - 1 : -1]
            drawn = logits.gather(1, torch.tensor(tokens[:, None].astype(np.int64)))[:, 0]
            assert float((logits.amax(1) - drawn).max()) < 0.5
