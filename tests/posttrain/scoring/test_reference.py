"""The reference policy: exact, restored to the bit, scored once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from posttrain.data.packing import Example
from posttrain.peft.wrap import trainable_state, wrap
from posttrain.scoring.reference import Reference, cache_key, cached_scores, reference_scores, score_branches
from posttrain.scoring.scorer import Scorer
from schemas.training import Full

CPU = torch.device("cpu")
SIZES = [(5, 4, 7), (9, 3, 2), (2, 6, 6)]


@pytest.fixture(params=["full", "lora", "dora"])
def scorer(request, tiny_llama, lora):
    spec = {"full": Full(method="full"), "lora": lora(), "dora": lora(use_dora=True)}[request.param]
    return Scorer(wrap(tiny_llama(), spec, 0, "alignment.peft"), CPU).eval()


def train_a_step(scorer: Scorer, examples: list[Example]) -> None:
    optimizer = torch.optim.AdamW(trainable_state(scorer.model).values(), lr=0.05)
    (-scorer(examples).logprobs.sum()).backward()
    optimizer.step()


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def test_swapped_gives_the_scores_before_training_and_restores_the_weights(scorer, random_examples):
    pairs = random_examples(SIZES)
    reference = Reference(scorer.model)
    before, initial = score_branches(scorer, pairs, 10**6), snapshot(scorer.model)
    train_a_step(scorer, pairs)
    after, trained = score_branches(scorer, pairs, 10**6), snapshot(scorer.model)
    assert (after - before).abs().max() > 0.1
    with reference.swapped():
        assert torch.equal(score_branches(scorer, pairs, 10**6), before)
        assert all(torch.equal(tensor, initial[name]) for name, tensor in scorer.model.state_dict().items())
    assert torch.equal(score_branches(scorer, pairs, 10**6), after)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in scorer.model.state_dict().items())


def test_training_goes_on_after_a_swap_as_if_there_was_none(scorer, random_examples):
    """The optimizer holds the parameters: they must be the same objects, with the trained values, after the swap."""
    pairs = random_examples(SIZES)
    reference = Reference(scorer.model)
    parameters = list(trainable_state(scorer.model).values())
    optimizer = torch.optim.AdamW(parameters, lr=0.01)

    def loss() -> float:
        value = -scorer(pairs).logprobs.sum()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(value)

    first = loss()
    with reference.swapped():
        pass
    second = loss()
    assert second < first
    assert all(a is b for a, b in zip(parameters, trainable_state(scorer.model).values(), strict=True))


def test_the_trained_weights_come_back_when_work_inside_raises(scorer, random_examples):
    reference = Reference(scorer.model)
    train_a_step(scorer, random_examples(SIZES))
    trained = snapshot(scorer.model)

    def work() -> None:
        with reference.swapped():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in scorer.model.state_dict().items())


def test_the_digest_is_that_of_the_initial_weights_and_changes_with_one_value(scorer):
    first = Reference(scorer.model)
    assert first.digest() == Reference(scorer.model).digest()
    with torch.no_grad():
        next(iter(trainable_state(scorer.model).values())).view(-1)[0] += 1e-6
    assert Reference(scorer.model).digest() != first.digest()


def test_scores_are_sums_per_branch_in_the_order_of_the_examples_whatever_the_budget(tiny_llama, random_examples):
    """Batches are formed by length; the answer is that of one sequence at a time."""
    scorer, pairs = Scorer(tiny_llama(), CPU), random_examples(SIZES)
    alone = torch.stack([torch.stack([scorer([Example(e.prompt, (b,))]).logprobs.sum() for b in e.branches]) for e in pairs])
    counted: list[int] = []
    for budget in (1, 20, 10**6):
        torch.testing.assert_close(score_branches(scorer, pairs, budget, counted.append), alone.detach(), atol=1e-4, rtol=0)
    assert sum(counted) == 9
    assert not score_branches(scorer, pairs, 20).requires_grad


def test_cached_scores_are_computed_and_written_once(tmp_path):
    calls = []

    def compute() -> torch.Tensor:
        calls.append(1)
        return torch.tensor([[1.0, 2.0]])

    found = [cached_scores(tmp_path / "cache", "k", compute, (1, 2)) for _ in range(3)]
    assert [hit for _, hit in found] == [False, True, True]
    assert all(scores.tolist() == [[1.0, 2.0]] for scores, _ in found)
    assert calls == [1]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["k.safetensors"]


def test_a_killed_scoring_goes_on_behind_the_last_group_with_the_same_bits(tiny_llama, random_examples, tmp_path):
    """Groups of at least 4 passes of 5 tokens: the first run is stopped inside a later group than the first."""
    scorer, pairs = Scorer(tiny_llama(), CPU), random_examples(SIZES)
    whole, found = reference_scores(tmp_path / "whole", ["w"], scorer, pairs, 5)
    assert found == 0
    files = len(list((tmp_path / "whole").iterdir()))
    assert 1 < files < len(pairs)

    def stop(rows: int) -> None:
        if list((tmp_path / "cut").glob("*.safetensors")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reference_scores(tmp_path / "cut", ["w"], scorer, pairs, 5, stop)
    counted: list[int] = []
    scores, found = reference_scores(tmp_path / "cut", ["w"], scorer, pairs, 5, counted.append)
    assert torch.equal(scores, whole)
    assert 0 < found < len(pairs)
    assert sum(counted) == len(pairs)
    assert reference_scores(tmp_path / "cut", ["other"], scorer, pairs, 5)[1] == 0
    torch.testing.assert_close(whole, score_branches(scorer, pairs, 10**6), atol=1e-4, rtol=0)


def test_scores_that_could_not_be_computed_leave_nothing_in_the_cache(tmp_path):
    def fail() -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_scores(tmp_path, "k", fail, (1, 2))
    assert list(tmp_path.iterdir()) == []
    assert not cached_scores(tmp_path, "k", lambda: torch.ones(1, 2), (1, 2))[1]


@pytest.mark.parametrize(
    "planted",
    [
        torch.ones(1, 1),
        torch.full((1, 2), float("nan")),
        torch.tensor([[1.0, float("inf")]]),
        torch.ones(1, 2, dtype=torch.float64),
    ],
)
def test_scores_of_another_shape_or_that_are_not_finite_are_computed_again(tmp_path, planted):
    save_file({"scores": planted}, tmp_path / "k.safetensors")
    scores, found = cached_scores(tmp_path, "k", lambda: torch.tensor([[1.0, 2.0]]), (1, 2))
    assert (scores.tolist(), found) == ([[1.0, 2.0]], False)
    assert cached_scores(tmp_path, "k", lambda: planted, (1, 2))[1]


def test_scores_of_another_key_or_with_a_changed_byte_are_computed_again(tmp_path):
    def compute() -> torch.Tensor:
        return torch.tensor([[1.0, 2.0]])

    cached_scores(tmp_path, "k", compute, (1, 2))
    content = (tmp_path / "k.safetensors").read_bytes()
    (tmp_path / "other.safetensors").write_bytes(content)
    assert not cached_scores(tmp_path, "other", compute, (1, 2))[1]
    (tmp_path / "k.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not cached_scores(tmp_path, "k", compute, (1, 2))[1]


def test_scores_of_an_older_version_are_taken_where_they_can_be_right(tmp_path):
    save_file({"scores": torch.ones(1, 2)}, tmp_path / "k.safetensors")
    assert cached_scores(tmp_path, "k", lambda: torch.zeros(1, 2), (1, 2))[1]


def test_the_cache_key_changes_with_each_ingredient_and_with_nothing_else(tiny_llama, random_examples):
    model, pairs = tiny_llama(), random_examples(SIZES)
    changed = Example(pairs[0].prompt, (pairs[0].branches[0], pairs[0].branches[1] + np.int32(1)))
    moved = Example(np.append(pairs[0].prompt, pairs[0].branches[0][0]), (pairs[0].branches[0][1:], pairs[0].branches[1]))
    scorer = Scorer(model, CPU)
    keys = [
        cache_key(["base", "adapter"], pairs, scorer, 100),
        cache_key(["base", "other"], pairs, scorer, 100),
        cache_key(["base", "adapter"], [changed, *pairs[1:]], scorer, 100),
        cache_key(["base", "adapter"], [moved, *pairs[1:]], scorer, 100),
        cache_key(["base", "adapter"], pairs[::-1], scorer, 100),
        cache_key(["base", "adapter"], pairs, Scorer(model, CPU, torch.bfloat16), 100),
        cache_key(["base", "adapter"], pairs, Scorer(model, CPU, layout="padded"), 100),
        cache_key(["base", "adapter"], pairs, scorer, 101),
    ]
    assert len(set(keys)) == len(keys)
    assert cache_key(["base", "adapter"], random_examples(SIZES), Scorer(model, CPU), 100) == keys[0]
