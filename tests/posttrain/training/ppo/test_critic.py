"""The critic: where it starts, at what rate it learns, what it leaves alone, and that it learns."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from posttrain.checkpoints.load import load_model
from posttrain.models.policy import Policy
from posttrain.peft.wrap import trainable_state, wrap
from posttrain.rewards.model import open_reward_model
from posttrain.training.loop import train
from posttrain.training.ppo.actor_critic import ActorCritic, is_critic, start_policy
from posttrain.training.ppo.critic import RewardStart, apart, new_critic, reward_start
from schemas.load import validate_recipe

CPU = torch.device("cpu")
SIZES = [(5, 4, 7), (9, 3, 2)]


@pytest.mark.parametrize("method", [{"method": "lora", "r": 4}, {"method": "full"}], ids=lambda each: each["method"])
def test_a_critic_from_the_reward_model_values_a_response_so_far_as_that_rewards_it(
    checkpoint, trained_reward, random_examples, ppo_section, lora, method
):
    """At each token the value is weight · reward of what stands before it: the reward model itself scores those pieces."""
    folder, weight = trained_reward(method["method"], method), 0.5
    base = load_model(Policy(str(checkpoint)), CPU)
    before = [parameter.clone() for parameter in base.parameters()]
    rewards = open_reward_model(folder, CPU, base=base)
    spec = ppo_section(value_model="adapter")
    critic = new_critic(base, spec, 0, RewardStart(folder, weight))
    policy = wrap(base, lora(), 0, "alignment.peft")
    start_policy(policy, spec, critic)
    examples = random_examples(SIZES)
    pieces = [(e.prompt, branch[:t]) for e in examples for branch in e.branches for t in range(1, len(branch))]
    expected = weight * rewards([prompt for prompt, _ in pieces], [piece for _, piece in pieces])
    values = ActorCritic(policy, CPU).eval()(examples).values
    first = np.cumsum([0, *(len(branch) for e in examples for branch in e.branches)])[:-1]
    after_first = torch.tensor([i not in first for i in range(len(values))])
    torch.testing.assert_close(values[after_first].detach(), expected, atol=1e-4, rtol=1e-4)
    trained = {name for name, tensor in critic.named_parameters() if tensor.requires_grad}
    assert trained == {name for name in trained if "lora_" in name or "value_head" in name}
    values.sum().backward()
    torch.optim.SGD([p for p in critic.parameters() if p.requires_grad], lr=1.0).step()
    assert all(
        torch.equal(now, then) for now, then in zip(load_model(Policy(str(checkpoint)), CPU).parameters(), before, strict=True)
    )
    again = weight * rewards([pieces[0][0]], [pieces[0][1]])
    torch.testing.assert_close(again, expected[:1], atol=1e-6, rtol=1e-5)  # the reward model is another model


RECIPE = {
    "name": "r", "model": {"source": "local", "path": "m"}, "data": {"preferences": "p"}, "reward": {},
    "alignment": {"algorithm": "ppo", "reward": {"source": "model", "weight": 2.0}, "value_model": "adapter"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "starts"),
    [
        ({}, True),
        ({"critic": {"init": "zero"}}, False),
        ({"critic": {"init": "reward_model"}}, True),
        ({"value_model": "trunk"}, False),
        ({"reward": {"source": "function", "name": "m:f"}}, False),
    ],
)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_critic_starts_from_the_reward_model_where_that_began_as_the_policy(tmp_path, changes, starts, method):
    changed = {"alignment": RECIPE["alignment"] | changes, "reward": {"peft": {"method": method}}}
    recipe = validate_recipe(RECIPE | changed, "r")
    found = reward_start(recipe, recipe.alignment, tmp_path)
    assert found == (RewardStart(tmp_path, 2.0) if starts else None)


@pytest.mark.parametrize("reward", [{"peft": {"method": "bitfit"}}, {"model": {"source": "local", "path": "other"}}])
def test_another_reward_model_is_no_start(tmp_path, reward):
    recipe = validate_recipe(RECIPE | {"reward": reward}, "r")
    assert reward_start(recipe, recipe.alignment, tmp_path) is None


def moves(job, start) -> tuple[float, float]:
    """How far policy and critic moved."""
    far = {True: 0.0, False: 0.0}
    for name, tensor in trainable_state(job.scorer.model).items():
        far[is_critic(name)] = max(far[is_critic(name)], float((tensor - start[name]).detach().abs().max()))
    return far[False], far[True]


def copied(job) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainable_state(job.scorer.model).items()}


@pytest.mark.parametrize("value_model", ["trunk", "adapter"])
def test_critic_and_policy_have_rates_of_their_own(ppo_job, value_model):
    """AdamW's first step moves a weight by its rate, whatever the gradient: one step at 1e-3, the critic at 0.05."""
    job, _, _ = ppo_job(
        iterations=1, epochs=1, minibatches=1, learning_rate=1e-3, value_model=value_model, critic={"learning_rate": 0.05}
    )
    start = copied(job)
    train(job)
    assert moves(job, start) == pytest.approx((1e-3, 0.05), rel=0.02)


def test_their_gradients_are_clipped_apart(ppo_job):
    """A large value loss leaves the norm of the policy, and so its step, as it is."""
    norms = []
    for value_coefficient in (0.1, 1000.0):
        job, _, _ = ppo_job(f"run{value_coefficient}", iterations=1, value_coefficient=value_coefficient)
        train(job)
        norms.append(json.loads((job.out / "curve.jsonl").read_text().splitlines()[-1]))
    assert norms[0]["grad_norm"] == pytest.approx(norms[1]["grad_norm"], rel=0.05)
    assert norms[1]["critic_grad_norm"] > 100 * norms[0]["critic_grad_norm"]


@pytest.mark.parametrize("trains_trunk", [False, True])
def test_the_value_loss_reaches_the_policys_trunk_only_where_asked(ppo_job, trains_trunk):
    job, objective, _ = ppo_job(critic={"trains_trunk": trains_trunk})
    objective.enter(0)
    torch.nn.init.normal_(job.scorer.model.value_head.weight)  # at 0 no gradient passes it
    scores = job.scorer.train()(objective.examples)
    (objective._value_terms(scores, torch.arange(len(scores.logprobs)))["value_loss"].sum()).backward()
    reached = {name for name, tensor in trainable_state(job.scorer.model).items() if tensor.grad is not None}
    assert any(map(is_critic, reached))
    assert any(not is_critic(name) for name in reached) == trains_trunk


def test_warm_up_trains_the_critic_alone(ppo_job):
    job, objective, _ = ppo_job(iterations=3, critic={"warmup_iterations": 2}, weight_decay=0.1)
    start, at_warm_up = copied(job), []
    honest = objective.collect

    def collect(iteration):
        at_warm_up.append(moves(job, start))
        return honest(iteration)

    objective.collect = collect
    train(job)
    (_, _), (policy, critic), (still, further) = at_warm_up
    assert policy == still == 0
    assert 0 < critic < further
    assert moves(job, start)[0] > 0


def first_token(answered) -> torch.Tensor:
    """What the whole response is worth is decided by its first token."""
    return torch.tensor([float(int(tokens[0]) % 2) for tokens in answered.responses])


@pytest.mark.parametrize(
    ("value_model", "rate", "explained"), [("trunk", None, True), ("trunk", 1e-4, False), ("adapter", None, True)]
)
def test_a_critic_with_a_rate_of_its_own_explains_returns_that_the_state_decides(
    ppo_job, tiny_llama, value_model, rate, explained
):
    """The policy mostly repeats its last token, so that each state tells the return. At the policy's own rate it takes longer."""
    model = tiny_llama(vocabulary=12)
    model.model.embed_tokens.weight.data.mul_(11)  # the tied head then gives the last token 96%
    job, objective, _ = ppo_job(
        model=model, reward=first_token, rollouts=32, iterations=10, epochs=4, minibatches=4, learning_rate=1e-4, value_clip=None,
        kl={"coefficient": 0.0}, value_model=value_model, critic={"learning_rate": rate},
    )  # fmt: skip
    train(job)
    assert (objective.measured["explained_variance_mc"] > 0.8) == explained
    assert (objective.measured["critic_explains"] > 0.7) == explained
    if explained:
        scored = objective.experience.scored
        values, odd = scored.rows(scored.values)[:, 1], torch.tensor([int(e.branches[0][0]) % 2 == 1 for e in scored.examples])
        assert values[odd].mean() > 0.8 > 0.2 > values[~odd].mean()


def test_the_derived_rate_is_that_of_a_reward_model(ppo_section):
    (found,) = apart(ppo_section(), lambda: 10**8)
    assert (found.learning_rate, found.max_grad_norm) == (1e-4, 1.0)
    (given,) = apart(ppo_section(critic={"learning_rate": 0.5, "max_grad_norm": 2.0}), lambda: 10**8)
    assert (given.learning_rate, given.max_grad_norm) == (0.5, 2.0)
    assert apart(ppo_section(advantage="rloo", samples=2, minibatches=1), lambda: 10**8) == ()
