"""Objectives on scores that are made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posttrain.packing import Example
from posttrain.scoring import TokenScores
from posttrain.trainers.objectives import LanguageModelling, Preference


def tokens(n: int) -> np.ndarray:
    return np.arange(2, 2 + n, dtype=np.int32)


def scores(*branches: list[float]) -> TokenScores:
    """Log-probabilities of each branch's tokens."""
    index = torch.tensor([i for i, branch in enumerate(branches) for _ in branch])
    return TokenScores(torch.tensor([x for branch in branches for x in branch]), index, len(branches))


PAIRS = [Example(tokens(3), (tokens(2), tokens(4))), Example(tokens(1), (tokens(1), tokens(1)))]
# Sums: row 0 chosen -3, rejected -8; row 1 chosen -5, rejected -2.
SCORED = scores([-1.0, -2.0], [-2.0] * 4, [-5.0], [-2.0])


def test_language_modelling_counts_target_tokens_and_sums_their_loss():
    """Row 0 has 2 + 4 targets, row 1 has 2; 3 + 8 + 5 + 2 = 18."""
    objective = LanguageModelling(PAIRS)
    assert [objective.units([0]), objective.units([1]), objective.units([1, 0, 1])] == [6, 2, 10]
    loss, extra = objective.loss(SCORED, [0, 1])
    assert loss.item() == 18
    assert extra == {}


def test_preference_by_hand():
    """β = 0.1, reference (-4, -7) and (-5, -2). Row 0: rewards 0.1·(1, -1), margin 0.2, loss ln(1 + e^-0.2) = 0.598139.

    Row 1 equals its reference: rewards 0, loss ln 2 = 0.693147, accuracy one half. Mean log-probabilities per token: chosen
    -3/2 and -5, rejected -8/4 and -2.
    """
    objective = Preference(PAIRS, torch.tensor([[-4.0, -7.0], [-5.0, -2.0]]), beta=0.1)
    assert objective.units([0, 1]) == 2
    loss, extra = objective.loss(SCORED, [0, 1])
    assert loss.item() == pytest.approx(0.598139 + 0.693147, abs=2e-6)
    expected = {"margin": 0.2, "accuracy": 1.5, "reward_chosen": 0.1, "reward_rejected": -0.1,
                "logprob_chosen": -6.5, "logprob_rejected": -4.0}  # fmt: skip
    assert {name: value.item() for name, value in extra.items()} == pytest.approx(expected, abs=1e-6)


def test_preference_takes_the_reference_of_the_rows_it_is_given():
    """The micro-batch holds row 1 first: its reference must be row 1's, which it equals."""
    objective = Preference(PAIRS, torch.tensor([[-4.0, -7.0], [-5.0, -2.0]]), beta=0.1)
    swapped = scores([-5.0], [-2.0], [-1.0, -2.0], [-2.0] * 4)
    loss, extra = objective.loss(swapped, [1, 0])
    assert loss.item() == pytest.approx(0.598139 + 0.693147, abs=2e-6)
    assert extra["logprob_rejected"].item() == pytest.approx(-4.0)


@pytest.mark.parametrize(("kind", "smoothing", "expected"), [("ipo", 0.0, 9.0), ("hinge", 0.0, 0.8), ("sigmoid", 0.5, 0.698139)])
def test_preference_passes_its_loss_and_smoothing_on(kind, smoothing, expected):
    """Row 0 has logits 2. IPO: (2 - 5)² = 9; hinge 1 - 0.2; smoothing 0.5: (0.598139 + 0.798139) / 2 = 0.698139."""
    objective = Preference(PAIRS, torch.tensor([[-4.0, -7.0], [-5.0, -2.0]]), beta=0.1, kind=kind, smoothing=smoothing)
    loss, _ = objective.loss(scores([-1.0, -2.0], [-2.0] * 4), [0])
    assert loss.item() == pytest.approx(expected, abs=2e-6)


def test_the_gradient_reaches_every_token_of_a_branch():
    """d loss / d log π(c) = -β sigmoid(-0.2) = -0.1 · 0.450166 for each chosen token, the opposite for each rejected one."""
    logprobs = torch.tensor([-1.0, -2.0, -2.0, -2.0, -2.0, -2.0], requires_grad=True)
    objective = Preference(PAIRS, torch.tensor([[-4.0, -7.0], [-5.0, -2.0]]), beta=0.1)
    loss, _ = objective.loss(TokenScores(logprobs, torch.tensor([0, 0, 1, 1, 1, 1]), 2), [0])
    loss.backward()
    assert logprobs.grad.tolist() == pytest.approx([-0.0450166] * 2 + [0.0450166] * 4, abs=1e-6)
