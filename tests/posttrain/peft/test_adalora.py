"""AdaLoRA's budget: how many singular values stay, which, and that a resumed run decides the same."""

from __future__ import annotations

import copy

import pytest
import torch

from posttrain.peft.adalora import RankBudget, budget, importance, keep
from posttrain.peft.applied import around_steps
from posttrain.peft.wrap import trainable_state, wrap

STEPS = 10


@pytest.fixture
def small(spec, tiny):
    """Builds a model on q and v of a Llama of two layers (four matrices of rank 4, target 2), and its optimizer."""

    def build(**changes):
        chosen = spec("adalora", target_modules=("q_proj", "v_proj"), **changes)
        model = wrap(tiny("llama"), chosen, 0, "sft.peft")
        return model, torch.optim.AdamW(trainable_state(model).values(), lr=0.02, fused=True)

    return build


def take(model, optimizer, steps) -> None:
    """Training steps as the loop takes them, from gradients of a loss that leans on every weight differently."""
    for step in steps:
        torch.manual_seed(step)
        ids = torch.randint(2, 97, (2, 8))
        model(input_ids=ids, labels=ids).loss.backward()
        ranks_of = around_steps(model)
        ranks_of.before_step(model)
        optimizer.step()
        ranks_of.after_step(model, optimizer, step, STEPS)
        optimizer.zero_grad()


def ranks(model) -> list[int]:
    """Singular values of each layer that are not zero."""
    return [int((p != 0).sum()) for name, p in model.named_parameters() if "lora_E" in name]


def test_the_budget_falls_with_the_cube_of_the_time_that_is_left(spec):
    """Ten layers, rank 12 to 8, from step 10 to 70. Half way, 10 · (8 + 4 · 0.5³) = 85; at a quarter 10 · (8 + 4 · 0.421875)."""
    chosen = spec("adalora", init_r=12, target_r=8)
    assert [budget(chosen, step, 10, 70, 10) for step in (0, 10, 25, 40, 70, 100)] == [120, 120, 96, 85, 80, 80]


def test_the_highest_scores_of_all_layers_stay():
    scores = [torch.tensor([5.0, 1.0, 3.0]), torch.tensor([4.0, 2.0]), torch.tensor([0.5, 0.5])]
    assert [mask.tolist() for mask in keep(scores, 3)] == [[True, False, True], [True, False], [False, False]]
    assert [mask.tolist() for mask in keep(scores, 6)] == [[True, True, True], [True, True], [True, False]]


def test_the_importance_of_a_singular_value_counts_its_vectors_by_hand():
    """Rank 2. Products of sensitivity and uncertainty: values 1·2 and 3·1; left column means (2 + 4) / 2 and (0 + 6) / 2; right
    row means (1 + 2 + 3) / 3 and 0: 2 + 3 + 2 = 7 and 3 + 3 + 0 = 6."""
    left, values, right = torch.zeros(2, 2), torch.zeros(2, 1), torch.zeros(2, 3)
    state = {
        left: {"sensitivity": torch.tensor([[1.0, 0.0], [2.0, 3.0]]), "uncertainty": torch.tensor([[2.0, 5.0], [2.0, 2.0]])},
        values: {"sensitivity": torch.tensor([[1.0], [3.0]]), "uncertainty": torch.tensor([[2.0], [1.0]])},
        right: {"sensitivity": torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), "uncertainty": torch.ones(2, 3)},
    }
    assert importance((left, values, right), state).tolist() == [7.0, 6.0]


def test_sensitivity_and_uncertainty_are_smoothed_as_in_the_paper(small):
    """One weight of 2 with gradient -3, then gradient 1 (β₁ = β₂ = 0.5): sensitivities 6 and 2. Means 3, then 2.5; deviations
    from the mean |6 - 3| = 3 and |2 - 2.5| = 0.5, smoothed 1.5 and 1."""
    model, optimizer = small(sensitivity_decay=0.5, uncertainty_decay=0.5)
    weight = next(p for name, p in model.named_parameters() if "lora_E" in name)
    for step, (gradient, mean, spread) in enumerate(((-3.0, 3.0, 1.5), (1.0, 2.5, 1.0)), start=1):
        for parameter in trainable_state(model).values():
            parameter.grad = torch.zeros_like(parameter)
        with torch.no_grad():
            weight.fill_(2.0)
        weight.grad.fill_(gradient)
        around_steps(model).after_step(model, optimizer, step, 100)
        assert optimizer.state[weight]["sensitivity"][0].item() == pytest.approx(mean)
        assert optimizer.state[weight]["uncertainty"][0].item() == pytest.approx(spread)


def test_ranks_fall_to_the_target_and_then_stay(small):
    """Steps 1 is the warm-up, 2 to 7 take ranks away, 8 to 10 train what is left: 16 singular values, at the end 8."""
    model, optimizer = small()
    history = []
    for step in range(1, STEPS + 1):
        take(model, optimizer, [step])
        history.append(ranks(model))
    totals = [sum(row) for row in history]
    assert totals[0] == 16
    assert totals == sorted(totals, reverse=True)
    assert totals[6:] == [8, 8, 8, 8]
    assert history[6] == history[9]
    assert len(set(history[9])) > 1, "the budget moves between layers"


def test_a_resumed_run_decides_the_same(small):
    """Weights and optimizer state are all that a checkpoint holds."""
    straight, its_optimizer = small()
    take(straight, its_optimizer, range(1, STEPS + 1))
    first, its_optimizer = small()
    take(first, its_optimizer, range(1, 5))
    weights, state = copy.deepcopy(first.state_dict()), copy.deepcopy(its_optimizer.state_dict())
    second, its_optimizer = small()
    second.load_state_dict(weights)
    its_optimizer.load_state_dict(state)
    take(second, its_optimizer, range(5, STEPS + 1))
    assert all(torch.equal(p, trainable_state(second)[name]) for name, p in trainable_state(straight).items())
    assert sum(ranks(second)) == 8


def test_the_penalty_is_the_gradient_that_autograd_finds(small):
    model, _ = small(orthogonality=0.3)
    state = trainable_state(model)
    for parameter in state.values():
        parameter.grad = torch.zeros_like(parameter)
    around_steps(model).before_step(model)
    ours = {name: parameter.grad.clone() for name, parameter in state.items()}
    matrices = [p if "lora_A" in name else p.T for name, p in state.items() if "lora_E" not in name]
    for parameter in state.values():
        parameter.grad = None
    penalty = sum((m @ m.T - torch.eye(len(m))).square().sum() for m in matrices) / len(matrices)
    (0.3 * penalty).backward()
    for name, parameter in state.items():
        if "lora_E" in name:
            assert ours[name].abs().max() == 0
        else:
            torch.testing.assert_close(ours[name], parameter.grad)


def test_other_methods_take_no_part_in_steps(spec, tiny):
    assert around_steps(wrap(tiny("llama"), spec("lora"), 0, "sft.peft")) is None
    assert around_steps(tiny("llama")) is None
    assert isinstance(around_steps(wrap(tiny("llama"), spec("adalora"), 0, "sft.peft")), RankBudget)
