"""Advantages and losses of policy optimisation by hand, and against the same equations in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.losses import ppo, surrogate

ALL = torch.ones(1, 3)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float32)


def test_gae_with_lambda_0_by_hand():
    """V = 1, 2, 3 and 5 at the end: δ = 0 + 2 - 1, 0 + 3 - 2, 5 + 0 - 3 = 1, 1, 2."""
    advantages, returns = ppo.gae(row(0, 0, 5), row(1, 2, 3), ALL, gamma=1.0, lam=0.0)
    assert advantages.tolist() == [[1, 1, 2]]
    assert returns.tolist() == [[2, 3, 5]]


def test_gae_with_lambda_1_is_the_return_less_the_value():
    """γ = 1/2: the returns are 5/4, 5/2, 5."""
    advantages, returns = ppo.gae(row(0, 0, 5), row(1, 2, 3), ALL, gamma=0.5, lam=1.0)
    assert advantages.tolist() == [[0.25, 0.5, 2]]
    assert returns.tolist() == [[1.25, 2.5, 5]]


def test_gae_of_a_short_response_does_not_see_its_padding():
    """The second row ends after one token, with reward 4 and value 1; what lies in its padding is noise."""
    rewards, values = torch.tensor([[0.0, 0, 5], [4, 9, 9]]), torch.tensor([[1.0, 2, 3], [1, 7, 7]])
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    advantages, returns = ppo.gae(rewards * mask, values, mask, 1.0, 0.95)
    assert advantages[1].tolist() == [3, 0, 0]
    assert returns[1].tolist() == [4, 0, 0]


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4), gamma=st.floats(0, 1), lam=st.floats(0, 1),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_gae_equals_its_definition_as_a_sum(lengths, gamma, lam, seed):
    """A_t = Σ_k (γλ)^k δ_{t+k}, response by response in float64: no recursion."""
    rng = np.random.default_rng(seed)
    shape = (len(lengths), max(lengths))
    rewards, values = rng.normal(size=shape), rng.normal(size=shape)
    mask = np.array([[float(t < n) for t in range(shape[1])] for n in lengths])
    found, _ = ppo.gae(*(torch.tensor(x) for x in (rewards * mask, values, mask)), gamma, lam)
    for r, n in enumerate(lengths):
        ahead = [*values[r, 1:n], 0.0]
        delta = [rewards[r, t] + gamma * ahead[t] - values[r, t] for t in range(n)]
        expected = [sum((gamma * lam) ** k * delta[t + k] for k in range(n - t)) for t in range(n)]
        assert found[r, :n].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert found[r, n:].tolist() == [0] * (shape[1] - n)


def test_whitening_uses_the_biased_variance():
    """1.2, 1.6, 2.0: mean 1.6, variance (0.16 + 0 + 0.16) / 3 = 0.10667, so ±0.4 / 0.32660 = ±1.22474."""
    assert ppo.whiten(row(1.2, 1.6, 2.0), ALL)[0].tolist() == pytest.approx([-1.224745, 0, 1.224745], abs=1e-5)
    assert ppo.whiten(row(1.2, 1.6, 2.0), ALL, shift=False)[0].tolist() == pytest.approx([0.375255, 1.6, 2.824745], abs=1e-5)


def test_whitening_counts_no_padding():
    mask = torch.tensor([[1.0, 1, 1], [0, 0, 0]])
    values = torch.tensor([[1.2, 1.6, 2.0], [50, 60, 70]])
    assert ppo.whiten(values, mask)[0].tolist() == pytest.approx([-1.224745, 0, 1.224745], abs=1e-5)
    assert ppo.whiten(values, mask)[1].tolist() == [0, 0, 0]


def test_the_score_is_added_to_the_last_token_and_the_divergence_to_all():
    """β = 0.5: -0.5 (log π - log π_ref) = -0.5, 1, and -0.5 + 7 at the end; the short row ends at its first token."""
    logprobs, reference = torch.tensor([[-1.0, -3, -1], [-2, 9, 9]]), torch.tensor([[-2.0, -1, -2], [-2, 1, 1]])
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    rewards = ppo.token_rewards(torch.tensor([7.0, 3.0]), 0.5 * ppo.k1(logprobs, reference), mask)
    assert rewards.tolist() == [[-0.5, 1, 6.5], [3, 0, 0]]


def test_the_policy_loss_is_clipped_where_it_would_gain_and_not_where_it_would_lose():
    """ρ = 1.5 and 0.5, ε = 0.2. A = 1: -1.2 (clipped), -0.5. A = -1: 1.5, 0.8 (clipped)."""
    old = torch.zeros(4)
    logprobs = torch.tensor([1.5, 0.5, 1.5, 0.5]).log().requires_grad_()
    losses = surrogate.clipped(logprobs - old, torch.tensor([1.0, 1, -1, -1]), 0.2, 0.2)
    assert losses.tolist() == pytest.approx([-1.2, -0.5, 1.5, 0.8])
    losses.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([0, -0.5, 1.5, 0])


def test_the_value_loss_takes_the_worse_of_value_and_clipped_value():
    """Old value 0, return 1, ± 0.2. V = 0.5: max(0.25, 0.64) / 2. V = -1: max(4, 1.44) / 2. V = 0.1: 0.81 / 2."""
    losses = ppo.value_loss(torch.tensor([0.5, -1.0, 0.1]), torch.zeros(3), torch.ones(3), 0.2)
    assert losses.tolist() == pytest.approx([0.32, 2.0, 0.405])


EVERY = torch.ones(6, dtype=torch.bool)


def test_leave_one_out_by_hand():
    """1, 2, 6: less the means 4, 3.5, 1.5 of the others. The second prompt's responses are equal."""
    assert ppo.leave_one_out(torch.tensor([1.0, 2, 6, 5, 5, 5]), 3, EVERY).tolist() == [-3, -1.5, 4.5, 0, 0, 0]


def test_group_relative_by_hand():
    """1, 2, 3: mean 2, standard deviation 1 of a sample. Equal rewards teach nothing."""
    found = ppo.group_relative(torch.tensor([1.0, 2, 3, 5, 5, 5]), 3, EVERY).tolist()
    assert found == pytest.approx([-1 / 1.0001, 0, 1 / 1.0001, 0, 0, 0])


def test_k3_by_hand_and_its_mean_is_the_divergence():
    """r = 2: 2 - 1 - ln 2. Over a distribution the mean is Σ p log(p / q)."""
    assert ppo.k3(torch.tensor([0.0]), torch.tensor([math.log(2)])).tolist() == pytest.approx([1 - math.log(2)])
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    assert float((p * ppo.k3(p.log(), q.log())).sum()) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-6)


def test_explained_variance_by_hand():
    """Returns 1, 2, 3: the perfect critic 1, a constant one 0, the mirror image 1 - (8/3) / (2/3) = -3."""
    returns = row(1, 2, 3)
    found = [float(ppo.explained_variance(values, returns, ALL)) for values in (returns, row(5, 5, 5), row(3, 2, 1))]
    assert found == pytest.approx([1, 0, -3])


@pytest.mark.parametrize("returns", [row(0.1, 0.1, 0.1), row(1000.1, 1000.1, 1000.1), row(0, 0, 0)])
def test_of_constant_returns_nothing_is_explained(returns):
    """As scikit-learn has it: 1 for a critic that is as constant, 0 for any other."""
    assert float(ppo.explained_variance(returns, returns, ALL)) == 1
    assert float(ppo.explained_variance(returns + row(0, 0.5, -1), returns, ALL)) == 0


def test_statistics_of_no_token_are_0():
    none = torch.zeros(1, 3)
    assert float(ppo.masked_mean(row(1, 2, 3), none)) == 0
    assert ppo.whiten(row(1, 2, 3), none).tolist() == [[0, 0, 0]]
    assert math.isfinite(float(ppo.explained_variance(row(1, 2, 3), row(3, 2, 1), none)))


def test_a_ratio_beyond_fp32_is_a_number_with_a_finite_gradient():
    """log ρ = 100 counts as 20: A = 0 gives 0, A = 1 the clipped ratio 1.2, A = -1 the ratio e^20."""
    logprobs = torch.zeros(3).requires_grad_()
    losses = surrogate.clipped(logprobs + 100, torch.tensor([0.0, 1.0, -1.0]), 0.2, 0.2)
    assert losses.tolist() == pytest.approx([0.0, -1.2, math.exp(20)], rel=1e-5)
    (gradient,) = torch.autograd.grad(losses.sum(), logprobs)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("nats", "expected"), [(149.0, math.exp(20) - 21), (20.0, math.exp(20) - 21), (-149.0, 148.0)])
def test_k3_far_from_the_reference_is_a_number(nats, expected):
    assert ppo.k3(torch.zeros(1), torch.tensor([nats])).tolist() == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize(("kl", "responses", "expected"), [(0.0, 64, 0.05), (0.0, 40, 0.05), (60.0, 64, 0.2), (0.0, 20, 0.06)])
def test_the_controller_never_takes_more_than_half_or_adds_more_than_all(kl, responses, expected):
    """Horizon 10, coefficient 0.1: 1 - 0.2 · 6.4 is below 0, 1 - 0.2 · 4 = 0.2, 1 + 0.2 · 6.4 = 2.28, 1 - 0.2 · 2 = 0.6."""
    assert ppo.next_coefficient(0.1, kl, responses, 6.0, 10.0) == pytest.approx(expected)


@pytest.mark.parametrize(("kl", "expected"), [(6.0, 0.15), (6.6, 0.15 * 1.00064), (60.0, 0.15 * 1.00128), (0.0, 0.15 * 0.99872)])
def test_the_controller_moves_by_its_clipped_error(kl, expected):
    """Target 6, horizon 10,000, 64 responses: errors 0, 0.1, 0.2 (clipped) and -0.2 (clipped), times 64 / 10,000."""
    assert ppo.next_coefficient(0.15, kl, 64, 6.0, 10_000) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 20), clip=st.floats(0.01, 0.9), seed=st.integers(0, 999))
def test_losses_equal_an_independent_implementation(n, clip, seed):
    """Token by token with nothing but `math`."""
    rng = np.random.default_rng(seed)
    new, old, advantage, value, before, target = rng.normal(size=(6, n)) * 0.7
    policy = [
        max(-a * math.exp(x - y), -a * min(max(math.exp(x - y), 1 - clip), 1 + clip))
        for x, y, a in zip(new, old, advantage, strict=True)
    ]
    values = [
        max((v - r) ** 2, (b + min(max(v - b, -clip), clip) - r) ** 2) / 2 for v, b, r in zip(value, before, target, strict=True)
    ]
    tensors = [torch.tensor(x) for x in (new, old, advantage, value, before, target)]
    assert surrogate.clipped(tensors[0] - tensors[1], tensors[2], clip, clip).tolist() == pytest.approx(policy, abs=1e-6)
    assert ppo.value_loss(*tensors[3:], clip).tolist() == pytest.approx(values, abs=1e-6)


def test_a_response_without_a_reward_counts_in_no_group():
    """Of 1, (9), 6 the mean of the other is 6 and 1; (9) alone, and 5 with nobody beside it, learn nothing."""
    totals, applies = torch.tensor([1.0, 9, 6, 5, 9, 9]), torch.tensor([True, False, True, True, False, False])
    assert ppo.leave_one_out(totals, 3, applies).tolist() == [-5, 0, 5, 0, 0, 0]
    deviation = 5 / math.sqrt(2) + 1e-4
    assert ppo.group_relative(totals, 3, applies).tolist() == pytest.approx([-2.5 / deviation, 0, 2.5 / deviation, 0, 0, 0])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_relative_scales_as_its_equation(scale):
    """TRL 1.16 (`scale_rewards`): r less the mean of its group, over the unbiased deviation of the group or of all, + 1e-4."""
    rng = np.random.default_rng(5)
    rewards = rng.normal(size=12)
    expected = []
    for group in rewards.reshape(-1, 4):
        deviation = {"group": group.std(ddof=1), "batch": rewards.std(ddof=1), "none": 1 - 1e-4}[scale]
        expected += [(r - group.mean()) / (deviation + 1e-4) for r in group]
    found = ppo.group_relative(torch.tensor(rewards), 4, torch.ones(12, dtype=torch.bool), scale)
    assert found.tolist() == pytest.approx(expected)


def test_a_prompt_teaches_where_its_applicable_responses_differ():
    """1, 2; 3, 3; 4 and one without a reward; two without."""
    totals = torch.tensor([1.0, 2, 3, 3, 4, 9, 9, 9])
    applies = torch.tensor([True, True, True, True, True, False, False, False])
    assert ppo.varies(totals, 2, applies).tolist() == [True, False, False, False]


def test_without_a_clip_the_value_loss_is_half_the_square():
    assert ppo.value_loss(torch.tensor([0.5, -1.0]), torch.zeros(2), torch.ones(2), None).tolist() == [0.125, 2.0]
