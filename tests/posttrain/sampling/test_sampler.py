"""Sampling: seeds, ends, padding, order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, BartConfig, T5Config

import posttrain.sampling.sampler as rollouts
from posttrain.peft.wrap import trainable_state, wrap
from posttrain.sampling.sampler import Sampling, sample

EOS = 0
COLD = 1e-4  # so low a temperature that the most likely token is always drawn


@pytest.fixture
def prompts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(2, 12, n).astype(np.int32) for n in (7, 1, 12, 3, 5)]


@pytest.fixture
def model(tiny_llama):
    """12 tokens, so that EOS comes up often; weights large enough that the context matters."""
    return tiny_llama(12, initializer_range=0.4)


def respond(model, tokenizer, prompts, limit: int, temperature: float, seed: int = 0, **more) -> list[np.ndarray]:
    """One response per prompt."""
    ends = {"ends": (tokenizer.eos_token_id,), "pad": tokenizer.pad_token_id}
    plan = Sampling(max_new_tokens=limit, temperature=temperature, seed=seed, **ends)
    return [response for (response,) in sample(model, prompts, plan, **more)]


def lists(responses) -> list[list[int]]:
    return [tokens.tolist() for tokens in responses]


@torch.no_grad()
def greedy(model, prompt: np.ndarray, limit: int) -> list[int]:
    """The most likely continuation, one plain forward pass per token: no cache, no padding."""
    ids = prompt.tolist()
    while len(ids) < len(prompt) + limit:
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] == EOS:
            break
    return ids[len(prompt) :]


def test_the_seed_fixes_the_responses(model, tokenizer, prompts):
    first = lists(respond(model, tokenizer, prompts, 12, 1.0, seed=1))
    torch.rand(3)
    assert lists(respond(model, tokenizer, prompts, 12, 1.0, seed=1)) == first
    assert lists(respond(model, tokenizer, prompts, 12, 1.0, seed=2)) != first


def test_a_response_ends_with_its_only_eos_or_is_as_long_as_allowed(model, tokenizer, prompts):
    responses = respond(model, tokenizer, prompts * 8, 15, 1.0, seed=0)
    ended = [tokens.tolist().count(EOS) == 1 and tokens[-1] == EOS for tokens in responses]
    cut = [len(tokens) == 15 and EOS not in tokens for tokens in responses]
    assert all(a or b for a, b in zip(ended, cut, strict=True))
    assert any(ended)
    assert any(cut)
    assert any(len(tokens) < 15 for tokens in responses)
    assert {tokens.dtype for tokens in responses} == {np.dtype(np.int32)}


def test_padding_does_not_change_what_is_most_likely(model, tokenizer, prompts):
    """A batch of prompts of 1 to 12 tokens gives what plain forward passes give for each prompt alone."""
    together = lists(respond(model, tokenizer, prompts, 10, COLD, seed=0))
    assert together == [lists(respond(model, tokenizer, [prompt], 10, COLD, seed=0))[0] for prompt in prompts]
    assert together == [greedy(model, prompt, 10) for prompt in prompts]
    assert len({tuple(tokens) for tokens in together}) > 1


def test_padding_that_equals_eos_does_no_harm(model, tokenizer, prompts):
    expected = lists(respond(model, tokenizer, prompts, 10, COLD, seed=0))
    tokenizer.pad_token = tokenizer.eos_token
    assert lists(respond(model, tokenizer, prompts, 10, COLD, seed=0)) == expected


def test_many_prompts_keep_their_order_across_batches(model, tokenizer, prompts, monkeypatch):
    """5 prompts in batches of 2, all of which are reported."""
    monkeypatch.setattr(rollouts, "BATCH", 2)
    counted: list[int] = []
    responses = respond(model, tokenizer, prompts, 6, COLD, seed=0, on_rows=counted.append)
    assert lists(responses) == [greedy(model, prompt, 6) for prompt in prompts]
    assert sum(counted) == 5


def test_progress_moves_within_a_batch_by_the_share_that_is_done(model, tokenizer, prompts):
    """After token s of 12, e(s) of 40 rows have ended: e + floor((40 - e) s / 12) are done."""
    counted: list[int] = []
    lengths = [len(tokens) for tokens in respond(model, tokenizer, prompts * 8, 12, 1.0, seed=0, on_rows=counted.append)]
    ended = [sum(length <= step for length in lengths) for step in range(1, 13)]  # those of 12 tokens are done with the last
    assert 0 < ended[5] < 40
    expected = [done + (40 - done) * step // 12 for step, done in enumerate(ended, 1)]
    assert np.cumsum(counted).tolist() == expected[: len(counted)]
    assert sum(counted) == 40


def test_progress_of_an_encoder_decoder_moves_with_its_tokens(encoder_decoder, tokenizer, prompts):
    """5 rows of at most 10 tokens: floor(5 s / 10) of them after token s, and all of them at the end."""
    counted: list[int] = []
    respond(encoder_decoder, tokenizer, prompts, 10, 1.0, seed=0, on_rows=counted.append)
    reached = np.cumsum(counted).tolist()
    assert reached[:-1] == [step // 2 for step in range(1, len(counted))]
    assert reached[-1] == 5


def frequencies(model, tokenizer, temperature: float) -> np.ndarray:
    first = [tokens[0] for tokens in respond(model, tokenizer, [np.array([5], np.int32)] * 6000, 1, temperature, seed=0)]
    return np.bincount(first, minlength=12) / 6000


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_tokens_are_drawn_from_the_full_distribution_at_the_temperature(model, tokenizer, monkeypatch, temperature):
    """6,000 draws: a share p has a standard error of at most 0.0065, so 0.03 is beyond 4 of them."""
    monkeypatch.setattr(rollouts, "BATCH", 6000)
    with torch.no_grad():
        expected = (model(torch.tensor([[5]])).logits[0, -1] / temperature).softmax(-1).numpy()
    assert np.abs(frequencies(model, tokenizer, temperature) - expected).max() < 0.03


@pytest.mark.parametrize(
    "habit", [{"repetition_penalty": 5.0}, {"min_p": 0.9}, {"top_k": 1}, {"top_p": 0.01}, {"suppress_tokens": [EOS, 3, 4, 5]}]
)
def test_sampling_habits_of_a_checkpoint_do_not_bend_the_distribution(model, tokenizer, prompts, habit):
    """Hub checkpoints bring a generation_config (Qwen2.5-Instruct: repetition_penalty 1.05): it is not the policy."""
    expected = lists(respond(model, tokenizer, prompts, 12, 1.0, seed=0))
    for name, value in habit.items():
        setattr(model.generation_config, name, value)
    assert lists(respond(model, tokenizer, prompts, 12, 1.0, seed=0)) == expected


def test_an_adapter_samples_from_the_adapted_policy(tiny_llama, tokenizer, prompts, lora):
    base = lists(respond(tiny_llama(12, initializer_range=0.4), tokenizer, prompts, 10, COLD, seed=0))
    adapted = wrap(tiny_llama(12, initializer_range=0.4), lora(), 0, "sft.peft")
    assert lists(respond(adapted, tokenizer, prompts, 10, COLD, seed=0)) == base
    for parameter in trainable_state(adapted).values():
        torch.nn.init.normal_(parameter, std=0.5)
    assert lists(respond(adapted, tokenizer, prompts, 10, COLD, seed=0)) != base


ENDS = {"eos_token_id": EOS, "pad_token_id": 1}
SEQ2SEQ = {
    "t5": T5Config(vocab_size=12, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
                   initializer_factor=3.0, decoder_start_token_id=1, **ENDS),
    "bart": BartConfig(vocab_size=12, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=48, decoder_ffn_dim=48,
                       encoder_attention_heads=4, decoder_attention_heads=4, init_std=0.5, bos_token_id=2,
                       decoder_start_token_id=2, forced_eos_token_id=None, **ENDS),
}  # fmt: skip


@pytest.fixture(params=SEQ2SEQ)
def encoder_decoder(request):
    """A random model of 12 tokens whose answers depend on the prompt; BART's positions count from the start of the row."""
    torch.manual_seed(0)
    return AutoModelForSeq2SeqLM.from_config(SEQ2SEQ[request.param]).eval()


@torch.no_grad()
def greedy_answer(model, prompt: np.ndarray, limit: int) -> list[int]:
    """The most likely answer of an encoder-decoder, one plain forward pass per token: no cache, no padding."""
    answer = [model.config.decoder_start_token_id]
    while len(answer) <= limit:
        logits = model(input_ids=torch.tensor([prompt.tolist()]), decoder_input_ids=torch.tensor([answer])).logits
        answer.append(int(logits[0, -1].argmax()))
        if answer[-1] == EOS:
            break
    return answer[1:]


def test_an_encoder_decoder_answers_without_the_prompt_and_the_start_token(encoder_decoder, tokenizer, prompts):
    together = lists(respond(encoder_decoder, tokenizer, prompts, 10, COLD, seed=0))
    assert together == [greedy_answer(encoder_decoder, prompt, 10) for prompt in prompts]
    assert len({tuple(tokens) for tokens in together}) > 1


def test_an_encoder_decoder_whose_padding_equals_eos_answers_the_same(encoder_decoder, tokenizer, prompts):
    expected = lists(respond(encoder_decoder, tokenizer, prompts, 10, COLD, seed=0))
    tokenizer.pad_token = tokenizer.eos_token
    assert lists(respond(encoder_decoder, tokenizer, prompts, 10, COLD, seed=0)) == expected


class Refused(Exception):
    """Raised inside a forward pass."""


def refuse(*_) -> None:
    raise Refused


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("two_parts", [False, True])
def test_sampling_leaves_no_trace(two_parts, fails, tiny_llama, tokenizer, prompts):
    """Mode of every module, torch's random state and the generation config are as before, also after a failure."""
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(SEQ2SEQ["t5"]) if two_parts else tiny_llama(12, attention_dropout=0.5)
    model.train()
    list(model.modules())[-1].eval()
    modes, habits, state = [m.training for m in model.modules()], model.generation_config, torch.get_rng_state()
    if fails:
        model.get_output_embeddings().register_forward_pre_hook(refuse)
        with pytest.raises(Refused):
            respond(model, tokenizer, prompts, 4, 1.0)
    else:
        respond(model, tokenizer, prompts, 4, 1.0)
    assert [m.training for m in model.modules()] == modes
    assert model.generation_config is habits
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_off(tiny_llama, tokenizer, prompts):
    model = tiny_llama(12, initializer_range=0.4, attention_dropout=0.9)
    expected = lists(respond(model, tokenizer, prompts, 10, 1.0))
    assert lists(respond(model.train(), tokenizer, prompts, 10, 1.0)) == expected


def test_an_encoder_decoder_gives_several_samples_to_each_prompt(encoder_decoder, tokenizer, prompts):
    plan = Sampling(max_new_tokens=5, temperature=COLD, seed=0, samples=2, ends=(EOS,), pad=1)
    expected = respond(encoder_decoder, tokenizer, prompts, 5, COLD)
    assert [lists(row) for row in sample(encoder_decoder, prompts, plan)] == [[r.tolist()] * 2 for r in expected]


def test_attention_that_training_uses_is_put_back(model, tokenizer, prompts):
    """FlexAttention is replaced by SDPA while sampling."""
    expected = lists(respond(model, tokenizer, prompts, 6, 1.0))
    model.set_attn_implementation("flex_attention")
    assert lists(respond(model, tokenizer, prompts, 6, 1.0)) == expected
    assert model.config._attn_implementation == "flex_attention"
