"""Objectives on scores that are made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posttrain.data.packing import Example
from posttrain.scoring.scorer import Scorer, TokenScores
from posttrain.training.objectives import LanguageModelling, Preference
from schemas.errors import Refusal


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


def test_z_loss_by_hand():
    """Log-normalisers 1, -2 and 3 weigh 0.1 · 14 = 1.4 beside a cross-entropy of 3; without a weight they are not looked at."""
    scored = TokenScores(torch.tensor([-1.0, -1.0, -1.0]), torch.zeros(3, dtype=torch.int64), 1, torch.tensor([1.0, -2.0, 3.0]))
    loss, extra = LanguageModelling(PAIRS, z_loss=0.1).loss(scored, [0])
    assert loss.item() == pytest.approx(4.4)
    assert extra["z_loss"].item() == pytest.approx(1.4)
    loss, extra = LanguageModelling(PAIRS).loss(scored, [0])
    assert (loss.item(), extra) == (3, {})


def test_z_loss_of_a_model_is_that_of_its_logits_gradient_too(tiny_llama, random_examples):
    """log Z as logsumexp of the plain logits at every position that predicts a target, mean over targets."""
    model, examples = tiny_llama(initializer_range=0.3), random_examples([(3, 5), (6, 2)])
    objective = LanguageModelling(examples, z_loss=0.01)
    loss, _ = objective.loss(Scorer(model, torch.device("cpu"))(examples), [0, 1])
    (loss / objective.units([0, 1])).backward()
    ours = model.model.embed_tokens.weight.grad.clone()
    model.zero_grad()
    rows, normalisers = [], []
    for example in examples:
        ids = torch.from_numpy(np.concatenate([example.prompt, *example.branches]).astype(np.int64))[None]
        logits = model(ids).logits[0, len(example.prompt) - 1 : -1]
        rows.append(torch.nn.functional.cross_entropy(logits, ids[0, len(example.prompt) :], reduction="none"))
        normalisers.append(logits.logsumexp(-1))
    plain = torch.cat(rows).mean() + 0.01 * torch.cat(normalisers).square().mean()
    plain.backward()
    assert loss.item() / 7 == pytest.approx(plain.item(), rel=1e-5)
    assert torch.allclose(ours, model.model.embed_tokens.weight.grad, atol=1e-6)


def test_z_loss_is_refused_where_no_normaliser_is_computed():
    with pytest.raises(Refusal, match="z_loss"):
        LanguageModelling(PAIRS, z_loss=0.1).loss(SCORED, [0, 1])


def test_preference_by_hand():
    """β = 0.1, reference (-4, -7) and (-5, -2). Row 0: rewards 0.1·(1, -1), margin 0.2, loss ln(1 + e^-0.2) = 0.598139.

    Row 1 equals its reference: rewards 0, loss ln 2 = 0.693147, accuracy one half. Mean log-probabilities per token: chosen
    -3/2 and -5, rejected -8/4 and -2. Log-ratios per token: chosen 1/2 and 0, rejected -1/4 and 0.
    """
    objective = Preference(PAIRS, torch.tensor([[-4.0, -7.0], [-5.0, -2.0]]), beta=0.1)
    assert objective.units([0, 1]) == 2
    loss, extra = objective.loss(SCORED, [0, 1])
    assert loss.item() == pytest.approx(0.598139 + 0.693147, abs=2e-6)
    expected = {"margin": 0.2, "accuracy": 1.5, "reward_chosen": 0.1, "reward_rejected": -0.1,
                "logprob_chosen": -6.5, "logprob_rejected": -4.0, "kl_chosen": 0.5, "kl_rejected": -0.25}  # fmt: skip
    assert {name: value.item() for name, value in extra.items()} == pytest.approx(expected, abs=1e-6)


def test_preference_takes_the_reference_of_the_rows_it_is_given():
    """The micro-batch holds row 1 first: its reference must be row 1's, which it equals."""
    objective = Preference(PAIRS, torch.tensor([[-4.0, -7.0], [-5.0, -2.0]]), beta=0.1)
    swapped = scores([-5.0], [-2.0], [-1.0, -2.0], [-2.0] * 4)
    loss, extra = objective.loss(swapped, [1, 0])
    assert loss.item() == pytest.approx(0.598139 + 0.693147, abs=2e-6)
    assert extra["logprob_rejected"].item() == pytest.approx(-4.0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kind": "ipo"}, 18.0625),
        ({"kind": "hinge"}, 0.8),
        ({"smoothing": 0.5}, 0.698139),
        ({"sft_weight": 2.0}, 3.598139),
        ({"kind": "simpo", "gamma": 0.5, "beta": 1.0}, 0.693147),
    ],
)
def test_preference_passes_its_numbers_on(changes, expected):
    """Row 0: log-ratios 1 and -1 over 2 and 4 tokens. IPO: (1/2 + 1/4 - 5)² = 18.0625; hinge 1 - 0.1 · 2; smoothing 0.5:

    (0.598139 + 0.798139) / 2. SFT term: 2 · 3/2 more than sigmoid. SimPO: means -1.5 and -2, less gamma: 0, so ln 2.
    """
    objective = Preference(PAIRS, torch.tensor([[-4.0, -7.0], [-5.0, -2.0]]), **{"beta": 0.1} | changes)
    loss, _ = objective.loss(scores([-1.0, -2.0], [-2.0] * 4), [0])
    assert loss.item() == pytest.approx(expected, abs=2e-6)


def test_without_a_reference_there_is_no_divergence_to_log():
    """SimPO, β = 2: rewards 2 · (-3/2, -8/4) and 2 · (-5, -2): margins 1 and -6; half of the pairs are ordered rightly."""
    _, extra = Preference(PAIRS, None, beta=2.0, kind="simpo").loss(SCORED, [0, 1])
    expected = {"margin": -5.0, "accuracy": 1.0, "reward_chosen": -13.0, "reward_rejected": -8.0,
                "logprob_chosen": -6.5, "logprob_rejected": -4.0}  # fmt: skip
    assert {name: value.item() for name, value in extra.items()} == pytest.approx(expected, abs=1e-6)


def test_the_gradient_reaches_every_token_of_a_branch():
    """d loss / d log π(c) = -β sigmoid(-0.2) = -0.1 · 0.450166 for each chosen token, the opposite for each rejected one."""
    logprobs = torch.tensor([-1.0, -2.0, -2.0, -2.0, -2.0, -2.0], requires_grad=True)
    objective = Preference(PAIRS, torch.tensor([[-4.0, -7.0], [-5.0, -2.0]]), beta=0.1)
    loss, _ = objective.loss(TokenScores(logprobs, torch.tensor([0, 0, 1, 1, 1, 1]), 2), [0])
    loss.backward()
    assert logprobs.grad.tolist() == pytest.approx([-0.0450166] * 2 + [0.0450166] * 4, abs=1e-6)
