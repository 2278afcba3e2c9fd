"""The gate before the first step of a preference run."""

from __future__ import annotations

import pytest
import torch

from posttrain.losses.preference import VARIANTS
from posttrain.scoring.reference import score_branches
from posttrain.scoring.scorer import Scorer
from posttrain.training import step_zero
from posttrain.training.objectives import Preference
from posttrain.training.step_zero import step_0_gate

SIZES = [(5, 4, 7), (9, 3, 2), (2, 6, 6)]  # of prompt, chosen, rejected


@pytest.fixture
def scorer(tiny_llama):
    return Scorer(tiny_llama(initializer_range=0.3), torch.device("cpu")).eval()


@pytest.fixture
def objective(scorer, random_examples):
    """Builds an objective on three pairs whose reference is the policy itself, moved by `shift` nats per token."""

    def build(kind: str, beta: float = 0.1, shift: tuple[float, float] = (0.0, 0.0), **changes) -> Preference:
        pairs = random_examples(SIZES)
        lengths = torch.tensor([[len(branch) for branch in pair.branches] for pair in pairs])
        reference = score_branches(scorer, pairs, 10**6) + torch.tensor(shift) * lengths
        return Preference(pairs, reference, beta, kind, **changes)

    return build


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("kind", [name for name, variant in VARIANTS.items() if variant.reference])
def test_the_gate_lets_an_equal_reference_pass_under_every_loss(scorer, objective, kind, beta):
    """With an SFT term, too, whose value is not known beforehand."""
    step_0_gate(scorer, objective(kind, beta, smoothing=0.1))
    step_0_gate(scorer, objective(kind, beta, sft_weight=1.0))


@pytest.mark.parametrize("kind", [name for name, variant in VARIANTS.items() if variant.reference])
@pytest.mark.parametrize("shift", [(-0.01, 0.0), (0.0, 0.01), (0.01, 0.01)])
def test_the_gate_stops_at_a_reference_that_is_off_by_a_hundredth_of_a_nat_per_token(scorer, objective, kind, shift):
    """Chosen has 4, 3 and 6 tokens: 0.043 nats in the mean, times β = 0.1: a reward of 0.004 and not 0; per token 0.001."""
    with pytest.raises(RuntimeError, match=r"step-0 gate: .* policy and reference differ"):
        step_0_gate(scorer, objective(kind, shift=shift))


def test_the_gate_sees_a_margin_that_the_loss_does_not_show(scorer, objective):
    """β = 0.1: IPO costs (0 - 5)² = 25 at the start, and as much, (10 - 5)², at 10 nats per token: a margin of 1."""
    with pytest.raises(RuntimeError, match=r"loss 2[45]\.\d+ \(expected 25\.0+ ± 0\.\d+\), margin 1\.0+ \(expected 0\.0+ ± "):
        step_0_gate(scorer, objective("ipo", shift=(-10.0, 0.0)))


def test_the_gate_sees_what_is_random_while_the_policy_trains(scorer, objective, tiny_llama):
    """Dropout at one half; evaluation, in which the reference is scored, does not show it. Mode and random state stay."""
    equal = objective("sigmoid")
    dropping = Scorer(tiny_llama(initializer_range=0.3, attention_dropout=0.5), scorer.device).eval()
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="policy and reference differ"):
        step_0_gate(dropping, equal)
    step_0_gate(scorer, equal)
    assert torch.equal(torch.get_rng_state(), before)
    assert not scorer.training


@pytest.fixture
def long_pairs(tiny_llama, random_examples):
    """A scorer in bfloat16 and pairs of some 180 tokens a side, whose scores depend on what they are scored together with."""
    model = tiny_llama(initializer_range=0.1, hidden_size=256, num_hidden_layers=4)
    scorer = Scorer(model, torch.device("cpu"), torch.bfloat16).eval()
    return scorer, random_examples([(9 + row, 170 + 3 * row, 190 - 2 * row) for row in range(8)])


@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "hinge"])
def test_what_rounding_leaves_in_half_precision_passes_the_gate(long_pairs, kind, monkeypatch):
    """The reference is scored with the pairs together, the gate scores them one by one. Without a tolerance beside what is
    measured: a model as small as this one is off by a thousandth of what a real one is.
    """
    scorer, pairs = long_pairs
    equal = Preference(pairs, score_branches(scorer, pairs, 2048), 0.1, kind)
    monkeypatch.setitem(step_zero.STEP_0_TOLERANCE, torch.bfloat16, 1e-8)
    step_0_gate(scorer, equal)
    monkeypatch.setattr(step_zero, "STANDARD_ERRORS", 0.0)
    with pytest.raises(RuntimeError, match="policy and reference differ"):
        step_0_gate(scorer, equal)


@pytest.mark.parametrize("shift", [(-0.05, 0.0), (0.05, 0.05)])
def test_the_gate_stops_at_a_twentieth_of_a_nat_per_token_in_half_precision(long_pairs, shift):
    """180 tokens · 0.05 nats · β = 0.9, where the reward should be 0."""
    scorer, pairs = long_pairs
    lengths = torch.tensor([[len(branch) for branch in pair.branches] for pair in pairs])
    wrong = score_branches(scorer, pairs, 2048) + torch.tensor(shift) * lengths
    with pytest.raises(RuntimeError, match="policy and reference differ"):
        step_0_gate(scorer, Preference(pairs, wrong, 0.1))


def test_a_score_that_is_not_a_number_does_not_pass_the_gate(scorer, objective):
    with pytest.raises(RuntimeError, match="margin nan"):
        step_0_gate(scorer, objective("sigmoid", shift=(float("nan"), 0.0)))
