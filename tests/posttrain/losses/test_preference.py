"""The DPO family against values worked out by hand, and against the equations written plainly in float64."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from posttrain.losses.preference import VARIANTS, Hyperparameters, at_start, preference_loss
from schemas.training import PreferenceLoss

LN2 = 0.693147
WITH_REFERENCE = [name for name, variant in VARIANTS.items() if variant.reference]


def loss_of(loss: str, c, r, lengths=(1, 1), sft_weight: float = 0.0, **numbers) -> list[float]:
    """Losses of pairs whose log-ratios (without a reference: log-probabilities) to (-20, -35) are `c` and `r`, summed."""
    ratios = torch.tensor([[*pair] for pair in zip(c, r, strict=True)])
    reference = torch.tensor([[-20.0, -35.0]]).expand_as(ratios)
    policy = reference + ratios if VARIANTS[loss].reference else ratios
    h = Hyperparameters(**{"beta": 0.1} | numbers)
    losses, _ = preference_loss(policy, reference, torch.tensor([lengths]).expand_as(ratios), loss, h, sft_weight)
    return losses.tolist()


def test_the_recipe_names_every_variant():
    assert set(get_args(PreferenceLoss)) == set(VARIANTS)


def test_sigmoid_by_hand():
    """β = 0.1. Equal ratios: -log sigmoid(0) = ln 2. β·(c - r) = 1: ln(1 + e⁻¹) = 0.313262. 2: 0.126928. -1: 1 + 0.313262."""
    losses = loss_of("sigmoid", [0.0, 5.0, 12.0, -10.0], [0.0, -5.0, -8.0, 0.0])
    assert losses == pytest.approx([LN2, 0.313262, 0.126928, 1.313262], abs=2e-6)


def test_sigmoid_is_ln_2_where_policy_and_reference_agree_whatever_the_pair():
    same = torch.tensor([[-3.0, -90.0], [-90.0, -3.0]])
    losses, rewards = preference_loss(same, same.clone(), torch.ones(2, 2), "sigmoid", Hyperparameters(0.7))
    assert losses.tolist() == pytest.approx([LN2, LN2], abs=1e-6)
    assert rewards.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_conservative_dpo_mixes_in_the_flipped_label():
    """ε = 0.1 at β·(c - r) = 1: 0.9 · 0.313262 + 0.1 · 1.313262 = 0.413262; at 0 both labels cost ln 2."""
    assert loss_of("sigmoid", [10.0, 0.0], [0.0, 0.0], smoothing=0.1) == pytest.approx([0.413262, LN2], abs=2e-6)


def test_robust_dpo_by_hand():
    """ε = 0.1 at β·(c - r) = 1: (0.9 · 0.313262 - 0.1 · 1.313262) / 0.8 = 0.188262; at 0: (0.9 - 0.1) ln 2 / 0.8 = ln 2."""
    assert loss_of("robust", [10.0, 0.0], [0.0, 0.0], smoothing=0.1) == pytest.approx([0.188262, LN2], abs=2e-6)


def test_ipo_by_hand():
    """β = 0.1, so the target is 1 / 0.2 = 5 per token. 8 over 4 tokens and -2 over 2: gap 2 + 1 = 3, (3 - 5)² = 4.

    20 over 4 and 0: the target is met. 0 and 0: 25.
    """
    assert loss_of("ipo", [8.0, 20.0, 0.0], [-2.0, 0.0, 0.0], (4, 2)) == pytest.approx([4, 0, 25], abs=1e-4)


def test_hinge_by_hand():
    """β = 0.1: max(0, 1 - 0.1·2) = 0.8; at 10 the margin is met, beyond it stays 0; at -5 it is 1.5."""
    losses = loss_of("hinge", [2.0, 10.0, 15.0, -5.0], [0.0] * 4)
    assert losses == pytest.approx([0.8, 0, 0, 1.5], abs=1e-6)


def test_length_normalised_dpo_by_hand():
    """β = 0.1: 48 over 4 tokens and 4 over 2 differ by 12 - 2 = 10 per token, β·10 = 1; 40 and 0 as well; 40 and 20: 0."""
    losses = loss_of("sigmoid_norm", [48.0, 40.0, 40.0], [4.0, 0.0, 20.0], (4, 2))
    assert losses == pytest.approx([0.313262, 0.313262, LN2], abs=2e-6)


def test_simpo_by_hand():
    """β = 2, gamma = 1. -2 over 4 tokens and -3 over 2: 2 · (-0.5 + 1.5) - 1 = 1. Equal means: -1, so 1 + 0.313262."""
    losses = loss_of("simpo", [-2.0, -4.0], [-3.0, -2.0], (4, 2), beta=2.0, gamma=1.0)
    assert losses == pytest.approx([0.313262, 1.313262], abs=2e-6)


def test_orpo_by_hand():
    """Mean probability 1/2 of chosen has odds 1, 1/5 of rejected odds 1/4: -log sigmoid(ln 4) = -ln 0.8 = 0.223144.

    With β = 0.1 and the likelihood of chosen, ln 2 per token: 0.693147 + 0.0223144 = 0.715462.
    """
    losses = loss_of("orpo", [4 * math.log(1 / 2)], [2 * math.log(1 / 5)], (4, 2))
    assert losses == pytest.approx([0.715462], abs=2e-6)


def test_apo_zero_by_hand():
    """β = 0.1: sigmoid(-1) + sigmoid(-2) = 0.268941 + 0.119203. Both sides 10: sigmoid(-1) + sigmoid(1) = 1."""
    assert loss_of("apo_zero", [10.0, 10.0], [-20.0, 10.0]) == pytest.approx([0.388144, 1], abs=2e-6)


def test_kto_pair_by_hand():
    """β = 0.1. 10 and -20: the mean, -5, is clamped to 0: (sigmoid(-1) + sigmoid(-2)) / 2 = 0.194072.

    30 and 10: z = 20, both sides are 10 away from it: sigmoid(-1) = 0.268941. 5 and 5: z = 5, both sides cost 1/2.
    """
    losses = loss_of("kto_pair", [10.0, 30.0, 5.0], [-20.0, 10.0, 5.0])
    assert losses == pytest.approx([0.194072, 0.268941, 0.5], abs=2e-6)


@pytest.mark.parametrize("loss", list(VARIANTS))
def test_the_sft_term_is_the_likelihood_per_token_of_chosen(loss):
    """Chosen has 4 tokens of log-probability -6 in all: 0.5 · 6 / 4 = 0.75 on top of the loss without the term."""
    reference = torch.tensor([[-7.0, -35.0]])
    pair = torch.tensor([[-6.0, -33.0]]), reference, torch.tensor([[4, 9]]), loss, Hyperparameters(0.1)
    plain, term = preference_loss(*pair), preference_loss(*pair, sft_weight=0.5)
    assert (term[0] - plain[0]).item() == pytest.approx(0.75, abs=1e-5)
    assert torch.equal(plain[1], term[1])


def log_sigmoid(x: float) -> float:
    return math.log(1 / (1 + math.exp(-x)))


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def odds(logprob: float) -> float:
    return math.exp(logprob) / (1 - math.exp(logprob))


def flipped(x: float, e: float) -> float:
    return (1 - e) * -log_sigmoid(x) + e * -log_sigmoid(-x)


# From log-probabilities of chosen and rejected under policy (c, r) and reference (C, R), their tokens (n, m), β, ε and gamma.
PLAIN = {
    "sigmoid": lambda c, r, C, R, n, m, b, e, g: flipped(b * (c - C) - b * (r - R), e),
    "robust": lambda c, r, C, R, n, m, b, e, g: (
        ((1 - e) * -log_sigmoid(b * (c - C - r + R)) - e * -log_sigmoid(-b * (c - C - r + R))) / (1 - 2 * e)
    ),
    "ipo": lambda c, r, C, R, n, m, b, e, g: ((c - C) / n - (r - R) / m - 1 / (2 * b)) ** 2,
    "hinge": lambda c, r, C, R, n, m, b, e, g: max(0.0, 1 - b * (c - C - r + R)),
    "sigmoid_norm": lambda c, r, C, R, n, m, b, e, g: flipped(b * (c - C) / n - b * (r - R) / m, e),
    "simpo": lambda c, r, C, R, n, m, b, e, g: -log_sigmoid(b / n * c - b / m * r - g),
    "orpo": lambda c, r, C, R, n, m, b, e, g: -c / n - b * log_sigmoid(math.log(odds(c / n) / odds(r / m))),
    "apo_zero": lambda c, r, C, R, n, m, b, e, g: (1 - logistic(b * (c - C))) + logistic(b * (r - R)),
    "kto_pair": lambda c, r, C, R, n, m, b, e, g: (
        0.5 * (1 - logistic(b * (c - C - max(0.0, (c - C + r - R) / 2))))
        + 0.5 * (1 - logistic(b * (max(0.0, (c - C + r - R) / 2) - r + R)))
    ),
}


def drawn(pairs: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Policy, reference and lengths of random pairs."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 40, (pairs, 2), generator=generator)
    reference = -lengths * (0.1 + 2 * torch.rand(pairs, 2, generator=generator))
    policy = (reference + 4 * torch.randn(pairs, 2, generator=generator)).clamp(max=-0.01)
    return policy, reference, lengths


@pytest.mark.parametrize("h", [Hyperparameters(0.1), Hyperparameters(0.7, smoothing=0.2, gamma=0.9)])
@pytest.mark.parametrize("loss", list(VARIANTS))
def test_every_variant_is_its_equation_on_random_pairs(loss, h):
    policy, reference, lengths = drawn()
    losses, _ = preference_loss(policy, reference, lengths, loss, h)
    rows = torch.cat([policy, reference, lengths], 1).double().tolist()
    expected = [PLAIN[loss](*row, h.beta, h.smoothing, h.gamma) for row in rows]
    assert losses.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("loss", list(VARIANTS))
def test_a_pair_costs_the_same_whatever_stands_beside_it(loss):
    """No variant may look across pairs: a step is the same however it is split into micro-batches."""
    policy, reference, lengths = drawn(8)
    together, _ = preference_loss(policy, reference, lengths, loss, Hyperparameters(0.3))
    alone = [preference_loss(policy[i : i + 1], reference[i : i + 1], lengths[i : i + 1], loss, Hyperparameters(0.3))[0]
             for i in range(8)]  # fmt: skip
    assert torch.equal(together, torch.cat(alone))


# d loss / d log π of chosen and rejected where policy and reference agree, β = 0.5, 4 and 2 tokens; for robust ε = 0.1.
SLOPES = {
    "sigmoid": (-0.25, 0.25),  # -β/2
    "robust": (-0.3125, 0.3125),  # -β ((1 - ε)/2 + ε/2) / (1 - 2ε) = -0.25 / 0.8
    "ipo": (-0.5, 1.0),  # -2 / 2β = -2 per token, over 4 and 2 tokens
    "hinge": (-0.5, 0.5),  # -β
    "sigmoid_norm": (-0.0625, 0.125),  # -β/2 over 4 and 2 tokens
    "apo_zero": (-0.125, 0.125),  # -β/4
    "kto_pair": (-0.0625, 0.0625),  # -β/8
}


def slopes(loss: str, policy: list[float], reference: list[float], h: Hyperparameters) -> list[float]:
    logprobs = torch.tensor([policy], requires_grad=True)
    losses, _ = preference_loss(logprobs, torch.tensor([reference]), torch.tensor([[4, 2]]), loss, h)
    losses.sum().backward()
    return logprobs.grad.flatten().tolist()


@pytest.mark.parametrize("loss", WITH_REFERENCE)
def test_slopes_at_the_start_by_hand(loss):
    smoothing = 0.1 if loss == "robust" else 0.0
    assert slopes(loss, [-4.0, -6.0], [-4.0, -6.0], Hyperparameters(0.5, smoothing)) == pytest.approx(SLOPES[loss], abs=1e-6)


@pytest.mark.parametrize("loss", list(VARIANTS))
@pytest.mark.parametrize("policy", [[-4.0, -6.0], [-4.5, -5.5], [-3.5, -6.5], [-3.5, -5.5], [-4.5, -6.5]])
def test_every_loss_pushes_chosen_up_and_rejected_down(loss, policy):
    """Wherever the pair stands near its reference (-4, -6): both above it, both below, apart, or closer."""
    chosen, rejected = slopes(loss, policy, [-4.0, -6.0], Hyperparameters(0.2, gamma=0.3))
    assert chosen < 0 < rejected


def test_flipping_all_labels_swaps_the_pair_and_one_half_makes_it_symmetric():
    """Conservative DPO with ε on (c, r) is that with 1 - ε on (r, c); with 1/2 it cannot tell them apart."""
    c, r = [3.0, -7.0, 0.5], [-2.0, 4.0, 0.5]
    assert loss_of("sigmoid", c, r, smoothing=0.3) == pytest.approx(loss_of("sigmoid", r, c, smoothing=0.7))
    assert loss_of("sigmoid", c, r, smoothing=0.5) == pytest.approx(loss_of("sigmoid", r, c, smoothing=0.5))


def test_robust_dpo_is_unbiased_under_flipped_labels():
    """With ε = 0.3 of the labels flipped, its mean is DPO's loss on the true labels."""
    c, r = [3.0, -7.0, 0.5], [-2.0, 4.0, 0.5]
    right, wrong = loss_of("robust", c, r, smoothing=0.3), loss_of("robust", r, c, smoothing=0.3)
    mean = [0.7 * a + 0.3 * b for a, b in zip(right, wrong, strict=True)]
    assert mean == pytest.approx(loss_of("sigmoid", c, r), abs=1e-6)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "simpo"])
def test_rewards_are_beta_times_what_is_compared_and_carry_no_gradient(loss):
    """β = 0.1. Log-ratios 2 and -1; over 4 and 2 tokens 0.5 and -0.5; without a reference -18/4 and -36/2."""
    policy = torch.tensor([[-18.0, -36.0]], requires_grad=True)
    reference = torch.tensor([[-20.0, -35.0]])
    losses, rewards = preference_loss(policy, reference, torch.tensor([[4, 2]]), loss, Hyperparameters(0.1))
    expected = {"sigmoid": [0.2, -0.1], "ipo": [0.05, -0.05], "simpo": [-0.45, -1.8]}[loss]
    assert rewards.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    assert not rewards.requires_grad
    assert losses.requires_grad


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("sigmoid", math.log(2)), ("robust", math.log(2)), ("ipo", 25.0), ("hinge", 1.0), ("sigmoid_norm", math.log(2)),
     ("apo_zero", 1.0), ("kto_pair", 0.5)],
)  # fmt: skip
def test_loss_at_the_start_by_hand(loss, expected):
    """No log-ratio, β = 0.1: ln 2; (1 / 0.2)² = 25; 1; sigmoid(0) twice; its mean."""
    assert at_start(loss, Hyperparameters(0.1, smoothing=0.2)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", list(VARIANTS))
@pytest.mark.parametrize("policy", [[-1000.0, -1e-9], [0.0, -1000.0], [-1000.0, 0.0], [0.0, 0.0], [-1e4, -1e4]])
def test_hopeless_and_perfect_pairs_give_finite_losses_and_gradients(loss, policy):
    """No log(0), no 0/0: certain tokens have log-probability 0 and infinite odds."""
    logprobs = torch.tensor([policy], requires_grad=True)
    losses, _ = preference_loss(logprobs, torch.tensor([[-5.0, -5.0]]), torch.ones(1, 2), loss, Hyperparameters(1.0))
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(logprobs.grad).all()


def test_a_hopeless_pair_by_hand():
    """β·(c - r) = -1000: log sigmoid must not be log(0); the loss is 1000 and its slope 1."""
    assert loss_of("sigmoid", [-1000.0], [0.0], beta=1.0) == pytest.approx([1000])
    assert slopes("sigmoid", [-1004.0, -6.0], [-4.0, -6.0], Hyperparameters(1.0)) == pytest.approx([-1.0, 1.0])


@pytest.mark.parametrize("loss", list(VARIANTS))
def test_a_missing_reference_is_an_error_where_the_loss_needs_one(loss):
    policy, _, lengths = drawn(2)
    if VARIANTS[loss].reference:
        with pytest.raises(ValueError, match=f"loss {loss} needs"):
            preference_loss(policy, None, lengths, loss, Hyperparameters())
    else:
        losses, _ = preference_loss(policy, None, lengths, loss, Hyperparameters())
        assert losses.shape == (2,)


@pytest.mark.parametrize("loss", list(VARIANTS))
def test_losses_and_rewards_are_fp32(loss):
    policy, reference, lengths = drawn(2)
    results = preference_loss(policy.bfloat16(), reference.bfloat16(), lengths, loss, Hyperparameters())
    assert [result.dtype for result in results] == [torch.float32, torch.float32]


def test_differences_are_taken_in_fp32():
    """Near -1000 the steps of bfloat16 are 4: there -1000 and -1001 do not differ, but in fp32 their difference is 1."""
    policy, reference = torch.tensor([[-1000.0, -16.0]]).bfloat16(), torch.tensor([[-1001.0, -16.0]])
    _, rewards = preference_loss(policy, reference, torch.ones(1, 2), "sigmoid", Hyperparameters(0.1))
    assert rewards[0].tolist() == pytest.approx([0.1, 0.0], abs=1e-6)
