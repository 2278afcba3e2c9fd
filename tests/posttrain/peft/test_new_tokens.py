"""LoRA trains the embeddings of new tokens: with the gradients that they have in the whole model, saved with the adapter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PhiConfig

from posttrain.models.policy import Policy
from posttrain.peft.merge import merge, stack
from posttrain.peft.wrap import save_trained, trainable_state, wrap
from posttrain.sampling.sampler import Sampling, sample
from posttrain.scoring.layout_choice import choose_layout
from posttrain.scoring.scorer import Scorer
from posttrain.training.half_precision import hold_frozen
from schemas.errors import Refusal

CPU = torch.device("cpu")
NEW = (95, 96)


@pytest.fixture(params=["tied", "untied"])
def model(request, tiny_llama):
    """A Llama of 97 tokens, the last two of them new."""
    return tiny_llama(tie_word_embeddings=request.param == "tied")


@pytest.fixture
def examples(random_examples):
    """Three examples in which the new tokens are read and predicted."""
    found = random_examples([(9, 7), (6, 5), (8, 4)])
    for example in found:
        example.prompt[2], example.prompt[4], example.branches[0][1], example.branches[0][3] = (*NEW, *NEW)
    return found


def gradients(model, examples) -> dict[str, torch.Tensor]:
    Scorer(model, CPU)(examples).logprobs.sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_rows_of_new_tokens_are_all_of_the_embeddings_that_is_trained(model, lora):
    wrapped = wrap(model, lora(), 0, "sft.peft", new_tokens=NEW)
    rows = {name: p for name, p in trainable_state(wrapped).items() if "lora" not in name}
    assert len(rows) == (1 if model.config.tie_word_embeddings else 2)
    assert all(p.shape == (2, 32) for p in rows.values())


def test_their_gradients_are_those_of_the_whole_model(model, lora, examples):
    """At the start LoRA changes nothing: the rows have the gradients of full training, a shared row those of both its uses."""
    whole = {name: grad[list(NEW)] for name, grad in gradients(model, examples).items() if "embed" in name or "lm_head" in name}
    model.zero_grad(set_to_none=True)
    found = gradients(wrap(model, lora(), 0, "sft.peft", new_tokens=NEW), examples)
    rows = {"embed" if "embed" in name else "head": grad for name, grad in found.items() if "trainable_tokens" in name}
    expected = {"embed" if "embed" in name else "head": grad for name, grad in whole.items()}
    assert rows.keys() == expected.keys()
    for name, grad in rows.items():
        assert float(expected[name].abs().min(1).values.max()) > 0
        assert torch.allclose(grad, expected[name], atol=1e-5), name


def test_the_fast_layouts_stay_exact(model, lora, examples):
    wrapped = wrap(model, lora(), 0, "sft.peft", new_tokens=NEW)
    for parameter in trainable_state(wrapped).values():
        torch.nn.init.normal_(parameter, std=0.3)
    scorer = Scorer(wrapped, CPU).eval()
    assert choose_layout(scorer, examples).layout == "packed"


def test_rollouts_are_drawn_with_the_trained_rows(model, lora):
    """With the same seed the policy in training and the plain checkpoint that it becomes answer alike."""
    wrapped = wrap(model, lora(), 0, "alignment.peft", new_tokens=NEW)
    for parameter in trainable_state(wrapped).values():
        torch.nn.init.normal_(parameter, std=0.3)
    prompts = [np.array([5, new, 9], np.int32) for new in NEW] * 4
    plan = Sampling(max_new_tokens=12, temperature=1.0, seed=0, ends=(), pad=1)
    training = [row.tolist() for (row,) in sample(wrapped.eval(), prompts, plan)]
    assert training == [row.tolist() for (row,) in sample(merge(wrapped), prompts, plan)]
    assert set(NEW) & {token for row in training for token in row}


@pytest.mark.parametrize("init", ["default", "pissa"])
@torch.no_grad()
def test_a_saved_adapter_is_the_same_on_its_base_and_merged(init, model, lora, tiny_llama, tokenizer, tmp_path):
    spec, ids = lora(init=init), torch.tensor([[3, *NEW, 7]])
    wrapped = wrap(model, spec, 0, "sft.peft", new_tokens=NEW)
    for name, parameter in trainable_state(wrapped).items():
        parameter.add_(torch.randn_like(parameter), alpha=1.0 if "tokens" in name else 0.1)
    expected = wrapped.eval()(ids).logits
    save_trained(wrapped, tokenizer, spec, Policy("somewhere"), tmp_path)
    plain = tiny_llama(tie_word_embeddings=model.config.tie_word_embeddings)
    untrained = plain(ids).logits
    loaded = stack(plain, tmp_path / "adapter")
    assert type(loaded) is type(plain)
    assert torch.allclose(loaded(ids).logits, expected, atol=1e-4)
    assert float((untrained - expected).abs().max()) > 0.1


def test_the_head_stays_in_fp32_when_frozen_layers_are_rounded(model, lora):
    """peft holds it under another module, where it must not pass for one of the linear layers."""
    wrapped = wrap(model, lora(), 0, "sft.peft", new_tokens=NEW)
    hold_frozen(wrapped, lora(), torch.bfloat16)
    inner = wrapped.get_base_model()
    assert inner.get_output_embeddings().weight.dtype == torch.float32
    assert inner.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


def test_a_head_with_a_bias_is_refused(lora):
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(PhiConfig(vocab_size=97, bos_token_id=None, eos_token_id=0, **shape))
    with pytest.raises(Refusal, match=r"sft\.peft\.method: found lora with model\.resize_embeddings on a phi model, whose head"):
        wrap(model, lora(), 0, "sft.peft", new_tokens=NEW)
