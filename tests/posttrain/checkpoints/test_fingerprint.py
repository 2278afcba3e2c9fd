"""What rounding does passes, what a wrong weight does is found and named, and prompts are encoded as in training."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.checkpoints.fingerprint import (
    CHAT,
    TEXTS,
    Fingerprint,
    difference,
    fingerprint,
    fixed_prompts,
    is_same,
    logits_of,
)
from posttrain.data.tokenizer import prepare_tokenizer
from posttrain.peft.rounding import SAFETY, allowed_difference
from posttrain.peft.wrap import trainable_state, wrap

PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12], [5, 9, 9], [13]]


def adapted(model, lora):
    """The model with an adapter of random numbers on every linear layer."""
    wrapped = wrap(model, lora(target_modules="all-linear"), 0, "sft.peft").eval()
    for parameter in trainable_state(wrapped).values():
        torch.nn.init.normal_(parameter, std=0.1)
    return wrapped


@pytest.mark.parametrize(("width", "depth", "spread"), [(32, 2, 0.2), (64, 12, 0.1), (128, 4, 0.02)])
def test_merging_an_adapter_stays_five_times_below_what_is_allowed(tiny_llama, lora, width, depth, spread):
    """Dropping it does not, and names the first layer that had it."""
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": depth, "initializer_range": spread}
    model = adapted(tiny_llama(**shape), lora)
    beside, allowed = fingerprint(model, PROMPTS), allowed_difference(model, torch.float32)
    with model.disable_adapter():
        dropped = difference(beside, fingerprint(model, PROMPTS), allowed)
    assert (dropped.module, is_same(dropped, beside, allowed)) == ("model.layers.0.self_attn.q_proj", False)
    merged = difference(beside, fingerprint(model.merge_and_unload(), PROMPTS), allowed / 5)
    assert is_same(merged, beside, allowed / 5)
    assert merged.module_difference > 0
    assert merged.top1 == 1


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj", "model.layers.3.mlp.down_proj", "lm_head"])
def test_a_matrix_altered_by_a_thousandth_of_its_norm_is_found_and_named(tiny_llama, name):
    model = tiny_llama(num_hidden_layers=4, tie_word_embeddings=False)
    before, allowed = fingerprint(model, PROMPTS), allowed_difference(model, torch.float32)
    assert is_same(difference(before, fingerprint(model, PROMPTS), allowed), before, allowed)
    weight = model.get_submodule(name).weight.data
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    weight += 1e-3 * weight.norm() / noise.norm() * noise
    found = difference(before, fingerprint(model, PROMPTS), allowed)
    assert (found.module, is_same(found, before, allowed)) == (name, False)


def test_the_allowed_difference_is_that_of_the_docstring(tiny_llama):
    """Two blocks, longest side 48, eps32 = 2**-23, eps of bfloat16 = 2**-7."""
    model = tiny_llama()
    assert allowed_difference(model, torch.float32) == pytest.approx(SAFETY * math.sqrt(2) * 2**-23 * (1 + math.sqrt(48)))
    assert allowed_difference(model, torch.bfloat16) == pytest.approx(
        SAFETY * math.sqrt(2) * (2**-7 + 2**-23 * math.sqrt(48))
    )  # fmt: skip


def outputs(rows) -> Fingerprint:
    return Fingerprint(torch.tensor(rows), {})


def test_differences_are_those_worked_out_by_hand():
    """Rows less their means: (1, -1) and (1.5, -1.5) against (1, -1) and (1, -1). The difference (0, 0, .5, -.5) has the norm
    √.5, the first √(2 + 4.5). p = (.9526, .0474) against q = (.8808, .1192): KL = .9526 ln 1.0815 + .0474 ln .3978 = .0309.
    """
    found = difference(outputs([[2.0, 0.0], [3.0, 0.0]]), outputs([[2.0, 0.0], [0.0, -2.0]]), 1e-6)
    assert found.logits == pytest.approx(math.sqrt(0.5 / 6.5))
    assert found.kl == pytest.approx(0.0309, abs=5e-5)
    assert (found.top1, found.module) == (1, None)


def test_a_constant_added_to_a_row_of_logits_is_no_difference():
    found = difference(outputs([[2.0, 0.0]]), outputs([[7.0, 5.0]]), 1e-6)
    assert (found.logits, found.kl, found.top1) == (0, 0, 1)


@pytest.mark.parametrize(("allowed", "agreement"), [(0.1, 0.5), (0.3, 1.0)])
def test_tokens_that_are_as_good_as_tied_do_not_disagree(allowed, agreement):
    """The largest centred logit is 2, so that .4 and 1.2 separate what counts as tied; the tokens are 1 apart."""
    found = difference(outputs([[1.0, 0.0, -1.0], [4.0, 1.0, 1.0]]), outputs([[0.0, 1.0, -1.0], [4.0, 1.0, 1.0]]), allowed)
    assert found.top1 == agreement


def test_numbers_that_are_not_finite_differ_as_much_as_can_be():
    found = difference(outputs([[1.0, 0.0]]), outputs([[math.nan, 0.0]]), 0.1)
    assert found.logits == found.kl == torch.finfo(torch.float64).max
    assert found.top1 == 0


def test_prompts_are_a_chat_and_texts_with_bos_where_texts_have_it(tiny_llama, with_bos):
    tokenizer = prepare_tokenizer(with_bos)
    chat, *texts = fixed_prompts(tokenizer, tiny_llama(len(tokenizer)))
    assert tokenizer.decode(chat) == tokenizer.apply_chat_template(list(CHAT), tokenize=False, add_generation_prompt=True)
    assert [tokenizer.decode(ids) for ids in texts] == [f"<|bos|>{text}" for text in TEXTS]
    assert all(ids.count(tokenizer.bos_token_id) == 1 for ids in (chat, *texts))


def test_prompts_without_bos_are_the_texts_alone(tiny_llama, tokenizer):
    _, *texts = fixed_prompts(tokenizer, tiny_llama(len(tokenizer)))
    assert [tokenizer.decode(ids) for ids in texts] == list(TEXTS)


def test_a_template_for_one_question_gets_one(tiny_llama, tokenizer):
    tokenizer.chat_template = (
        "{% if messages | length > 2 %}{{ raise_exception('one question') }}{% endif %}{{ messages[0]['content'] }}?"
    )
    assert tokenizer.decode(fixed_prompts(tokenizer, tiny_llama(len(tokenizer)))[0]) == CHAT[0]["content"] + "?"


def test_prompts_are_cut_to_a_table_of_positions(tokenizer):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=16, n_embd=16, n_layer=1, n_head=2)).eval()
    prompts = fixed_prompts(tokenizer, model)
    assert max(map(len, prompts)) == 16
    assert [len(logits_of(model, ids)[0]) for ids in prompts] == [len(ids) for ids in prompts]
