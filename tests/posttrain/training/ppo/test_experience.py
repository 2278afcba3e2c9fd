"""From scored responses to advantages, by hand, and through a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posttrain.training.ppo.advantages import estimate
from posttrain.training.ppo.experience import Experience, Scored

LOGPROBS = [-1.0, -2.0, -1.0, -3.0, -2.0]
REFERENCE = [-1.5, -1.0, -1.0, -3.0, -3.0]


@pytest.fixture
def scored(random_examples) -> Scored:
    """Two prompts with two responses each, of 2, 1, 1 and 1 tokens."""
    examples = random_examples([(3, 2, 1), (4, 1, 1)])
    return Scored(examples, torch.tensor(LOGPROBS), torch.tensor(REFERENCE), torch.ones(5), torch.tensor([0.5, 1, 0, 2, 1]))


def test_rows_and_back(scored):
    assert scored.rows(scored.logprobs).tolist() == [[-1, -2], [-1, 0], [-3, 0], [-2, 0]]
    assert scored.mask.tolist() == [[1, 1], [1, 0], [1, 0], [1, 0]]
    assert scored.flat(scored.rows(scored.logprobs)).tolist() == LOGPROBS


def test_leave_one_out_takes_the_divergence_off_the_reward(scored, ppo_section):
    """Divergences 0.5 - 1, 0, 0, 1; with β = 2 rewards 4, 1, 3, 5 become 5, 1, 3, 3: advantages 4, -4, 0, 0, one per token."""
    spec = ppo_section(advantage="rloo", samples=2, minibatches=1)
    found = estimate(scored, torch.tensor([4.0, 1, 3, 5]), spec, 2.0)
    assert found.advantages.tolist() == [4, 4, -4, 0, 0]
    assert found.returns is None


def test_group_relative_leaves_the_divergence_to_the_loss(scored, ppo_section):
    """3 and 1: ±1 over the standard deviation √2; 5 and 5: nothing."""
    spec = ppo_section(advantage="grpo", samples=2, minibatches=1)
    found = estimate(scored, torch.tensor([3.0, 1, 5, 5]), spec, 2.0)
    assert found.advantages.tolist() == pytest.approx([0.70706, 0.70706, -0.70706, 0, 0], abs=1e-4)


def test_gae_whitens_over_tokens_and_keeps_the_returns(scored, ppo_section):
    """β = 1, λ = 0: rewards -0.5, 1 + 4; 0 + 1; 0 + 3; -1 + 5. δ = -0.5 + 1 - 0.5, 5 - 1; 1 - 0; 3 - 2; 4 - 1 = 0, 4, 1, 1, 3."""
    spec = ppo_section(lam=0.0, lambda_value=0.0)
    found = estimate(scored, torch.tensor([4.0, 1, 3, 5]), spec, 1.0)
    assert found.returns.tolist() == [0.5, 5, 1, 3, 4]
    raw = np.array([0.0, 4, 1, 1, 3])
    assert found.advantages.tolist() == pytest.approx(((raw - raw.mean()) / raw.std()).tolist(), abs=1e-5)


def test_tokens_of_some_examples(scored):
    experience = Experience(scored, torch.zeros(5), None, torch.ones(5), torch.tensor([2, 1, 1, 1]))
    assert experience.tokens([1]).tolist() == [3, 4]
    assert experience.tokens([1, 0]).tolist() == [3, 4, 0, 1, 2]


def test_a_checkpoint_gives_it_back(scored, ppo_section, tmp_path):
    experience = estimate(scored, torch.tensor([4.0, 1, 3, 5]), ppo_section(), 1.0)
    torch.save(experience.state(), tmp_path / "state.pt")
    restored = Experience.restored(torch.load(tmp_path / "state.pt", weights_only=True))
    for name in ("logprobs", "reference", "entropy", "values"):
        assert torch.equal(getattr(restored.scored, name), getattr(scored, name))
    assert torch.equal(restored.advantages, experience.advantages)
    assert torch.equal(restored.returns, experience.returns)
    for one, other in zip(restored.scored.examples, scored.examples, strict=True):
        assert np.array_equal(one.prompt, other.prompt)
        assert all(np.array_equal(a, b) for a, b in zip(one.branches, other.branches, strict=True))


def test_a_response_without_a_reward_teaches_nothing(scored, ppo_section):
    """Its advantages are 0, its values stay, and the others are whitened among themselves: 4 of 5 tokens as above."""
    found = estimate(scored, torch.tensor([4.0, 1, float("nan"), 5]), ppo_section(lam=0.0, lambda_value=0.0), 1.0)
    assert found.returns.tolist() == [0.5, 5, 1, 2, 4]
    raw = np.array([0.0, 4, 1, 3])
    expected = (raw - raw.mean()) / raw.std()
    assert found.advantages.tolist() == pytest.approx([*expected[:3], 0, expected[3]], abs=1e-5)
