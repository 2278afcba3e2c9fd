"""What a step does to the weights, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch

import posttrain.training.optimizer as optimizer
from posttrain.peft.wrap import trainable_state, wrap
from posttrain.scoring.scorer import Scorer
from posttrain.training.loop import train
from posttrain.training.optimizer import Updates, make_optimizer
from schemas.peft import AdaLoRA
from schemas.training import Optimization

CPU = torch.device("cpu")
SPEC = Optimization(learning_rate=0.01, weight_decay=0.1)


def test_gradients_are_clipped_and_their_norm_is_reported_before_clipping(job, tiny_llama, points, monkeypatch):
    """Under plain gradient descent a step is rate · gradient; clipped to norm 0.5 at a rate of 0.1 it is 0.05 long."""
    monkeypatch.setattr(optimizer, "make_optimizer", lambda model, *_: torch.optim.SGD(model.parameters(), lr=9.0))
    spec = {"learning_rate": 0.1, "schedule": "constant", "warmup_share": 0, "max_grad_norm": 0.5}
    made = job(spec=spec, plan=[[0, 1]], scorer=Scorer(tiny_llama(), CPU))
    before = {n: p.detach().clone() for n, p in trainable_state(made.scorer.model).items()}
    train(made)
    with torch.no_grad():
        moved = torch.stack([(p - before[n]).norm() for n, p in trainable_state(made.scorer.model).items()]).norm()
    assert float(moved) == pytest.approx(0.05, rel=1e-3)
    assert points(made.out)[0]["grad_norm"] > 0.5


def test_weight_decay_is_for_matrices_only(tiny_llama):
    model = tiny_llama()
    matrices, vectors = make_optimizer(model, SPEC).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in matrices["params"]} == {2}
    assert {p.ndim for p in vectors["params"]} == {1}
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))


def test_the_decays_of_adam_are_the_recipes(tiny_llama):
    spec = Optimization(learning_rate=0.01, adam_beta1=0.8, adam_beta2=0.7)
    assert {group["betas"] for group in make_optimizer(tiny_llama(), spec).param_groups} == {(0.8, 0.7)}
    assert {group["betas"] for group in make_optimizer(tiny_llama(), SPEC).param_groups} == {(0.9, 0.95)}


@pytest.mark.parametrize("fused", [True, False])
def test_a_skipped_step_moves_neither_weights_nor_state(scorer, objective, fused, monkeypatch):
    """The state of AdamW holds the number of steps, which its bias correction needs."""
    if not fused:
        monkeypatch.setattr(optimizer, "make_optimizer", lambda model, *_: torch.optim.AdamW(trainable_state(model).values()))
    policy, held = scorer("lora"), objective()
    updates = Updates(policy, SPEC)

    def step(factor: float) -> float:
        loss = -policy(held.examples).logprobs.mean() * factor
        updates.backward(loss)
        return float(updates.take(0.01, loss.detach(), 1, 3)[1])

    assert step(1.0) == 0
    weights = {name: tensor.detach().clone() for name, tensor in trainable_state(policy.model).items()}
    state = [{name: value.clone() for name, value in of_one.items()} for of_one in updates.optimizer.state.values()]
    assert step(torch.nan) == 1
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trainable_state(policy.model).items())
    for before, now in zip(state, updates.optimizer.state.values(), strict=True):
        assert all(torch.equal(before[name], now[name]) for name in before)
    assert step(1.0) == 0
    assert not all(torch.equal(tensor, weights[name]) for name, tensor in trainable_state(policy.model).items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_the_gradients_of_float32_for_body_and_trainable_head(tiny_llama, objective, dtype):
    """Scoring without gradients came before, whose casts of the weights must not be used again: they have no history.

    Weights and gradients stay float32; a cast has 8 bits (bfloat16), so that norms agree to a few percent.
    """
    norms = {}
    for arithmetic in (torch.float32, dtype):
        policy = Scorer(tiny_llama(tie_word_embeddings=False), CPU, arithmetic)
        with torch.no_grad():
            policy(objective().examples)
        policy(objective().examples).logprobs.sum().backward()
        gradients = {name: parameter.grad for name, parameter in trainable_state(policy.model).items()}
        assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
        norms[arithmetic] = {name: float(gradient.norm()) for name, gradient in gradients.items()}
    assert norms[dtype] == pytest.approx(norms[torch.float32], rel=0.05)


def test_adalora_gives_up_ranks_in_the_loop(job, tiny_llama):
    """After ten steps, the layers' ranks are 2 on average: of 4 singular values a layer half are zero."""
    spec = AdaLoRA(method="adalora", init_r=4, target_r=2)
    policy = Scorer(wrap(tiny_llama(), spec, 0, "sft.peft"), CPU)
    train(job(plan=[[0, 1, 2]] * 10, scorer=policy))
    values = [tensor for name, tensor in policy.model.named_parameters() if "lora_E" in name]
    assert len(values) == 14  # seven linear layers in each of two blocks
    assert sum(int((tensor == 0).sum()) for tensor in values) == 14 * (4 - 2)
