"""Policy and critic on one backbone: values, entropy, and a policy that is whole again when the critic is taken off."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import posttrain.training.ppo.actor_critic as module
from posttrain.models.weight_sharing import keep_apart, shared_copy
from posttrain.peft.wrap import trainable_state, wrap
from posttrain.scoring.output_head import Head
from posttrain.scoring.scorer import Scorer
from posttrain.training.ppo.actor_critic import ActorCritic, add_critic, add_value_head, entropy, remove_critic
from schemas.training import Full

CPU = torch.device("cpu")
SIZES = [(5, 4, 7), (9, 3, 2)]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 9), vocabulary=st.integers(2, 40), softcap=st.sampled_from([None, 3.0]), bias=st.booleans(),
    temperature=st.sampled_from([0.7, 1.0, 2.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_entropy_equals_torchs_in_value_and_gradient(n, vocabulary, softcap, bias, temperature, seed):
    """Chunks of one row, against `torch.distributions` in one piece."""
    torch.manual_seed(seed)
    hidden, weight = torch.randn(n, 6).requires_grad_(), torch.randn(vocabulary, 6).requires_grad_()
    offsets = torch.randn(vocabulary) if bias else None
    before, module.ENTROPY_LOGITS = module.ENTROPY_LOGITS, 1
    try:
        found = entropy(hidden, Head(weight, offsets, 1.5, softcap, temperature))
    finally:
        module.ENTROPY_LOGITS = before
    logits = 1.5 * torch.nn.functional.linear(hidden, weight, offsets)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    expected = torch.distributions.Categorical(logits=logits / temperature).entropy()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for a, b in zip(*(torch.autograd.grad(x.sum(), (hidden, weight)) for x in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_values_start_at_0_and_are_linear_in_the_hidden_state_before_each_token(tiny_llama, random_examples):
    """One sequence at a time through the model itself: the state at position t predicts token t + 1."""
    model = wrap(tiny_llama(), Full(method="full"), 0, "alignment.peft")
    add_value_head(model)
    scorer, examples = ActorCritic(model, CPU).eval(), random_examples(SIZES)
    assert scorer(examples).values.abs().max() == 0
    torch.nn.init.normal_(model.value_head.weight)
    torch.nn.init.constant_(model.value_head.bias, 0.5)
    expected = []
    for example in examples:
        for branch in example.branches:
            ids = torch.tensor([[*example.prompt.tolist(), *branch.tolist()]])
            hidden = model.model(ids).last_hidden_state[0, len(example.prompt) - 1 : -1]
            expected.append(hidden @ model.value_head.weight[0] + 0.5)
    torch.testing.assert_close(scorer(examples).values, torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_the_critic_of_its_own_gives_the_values_and_the_policy_the_logprobs(tiny_llama, random_examples, lora):
    base, examples = tiny_llama(), random_examples(SIZES)
    critic = wrap(shared_copy(base), lora(), 0, "alignment.value_model")
    add_value_head(critic)
    policy = wrap(base, lora(), 1, "alignment.peft")
    expected = Scorer(policy, CPU)(examples).logprobs
    add_critic(policy, critic)
    scores = ActorCritic(policy, CPU).eval()(examples)
    torch.testing.assert_close(scores.logprobs, expected)
    scores.values.sum().backward()
    moved = {name for name, tensor in trainable_state(policy).items() if tensor.grad is not None and tensor.grad.abs().sum() > 0}
    assert moved == {name for name in moved if ".critic." in name}
    assert any("value_head" in name for name in moved)


def test_a_policy_is_what_it_was_once_its_critic_is_gone(tiny_llama, lora):
    policy = wrap(tiny_llama(), lora(), 0, "alignment.peft")
    before = list(policy.state_dict())
    add_value_head(policy)
    assert remove_critic(policy) == 33  # 32 weights and a bias
    assert list(policy.state_dict()) == before
    assert remove_critic(policy) == 0


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("layout", ["packed", "padded", "plain"])
def test_the_temperature_divides_the_logits(tiny_llama, random_examples, temperature, layout):
    model, examples = tiny_llama(), random_examples(SIZES)
    expected = []
    for example in examples:
        for branch in example.branches:
            ids = torch.tensor([[*example.prompt.tolist(), *branch.tolist()]])
            logits = model(ids).logits[0, len(example.prompt) - 1 : -1] / temperature
            expected.append(logits.log_softmax(-1).gather(1, torch.tensor(branch.tolist())[:, None])[:, 0])
    scores = Scorer(model, CPU, layout=layout, temperature=temperature)(examples)
    torch.testing.assert_close(scores.logprobs, torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_a_twin_keeps_its_values_where_the_other_model_trains_in_place(tiny_llama):
    """Full fine-tuning of one; the other still computes what it did, and what both leave alone is stored once."""
    policy = tiny_llama()
    other, ids = shared_copy(policy), torch.arange(10)[None]
    policy.model.layers.requires_grad_(False)
    keep_apart(other, policy)
    before = other(ids).logits
    with torch.no_grad():
        policy.model.embed_tokens.weight.add_(1)
    assert torch.equal(other(ids).logits, before)
    shared = [name for name, p in other.named_parameters() if p.data_ptr() == dict(policy.named_parameters())[name].data_ptr()]
    assert shared == [name for name, _ in policy.named_parameters() if "layers." in name]
