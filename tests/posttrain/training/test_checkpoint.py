"""Training checkpoints: what they restore, and what a crash leaves."""

from __future__ import annotations

import os

import pytest
import torch

from posttrain.peft.wrap import trainable_state, wrap
from posttrain.training.checkpoint import Position, load_best, load_checkpoint, save_best, save_checkpoint
from schemas.training import Full


@pytest.fixture(params=["full", "lora"])
def state(request, tiny_llama, lora):
    """Builds a wrapped model and its optimizer."""

    def build(seed: int = 0):
        spec = Full(method="full") if request.param == "full" else lora()
        model = wrap(tiny_llama(seed=seed), spec, seed, "sft.peft")
        return model, torch.optim.AdamW(trainable_state(model).values(), lr=0.01)

    return build


def step(model, optimizer) -> None:
    """One update from noise: uses and moves the random state."""
    for parameter in trainable_state(model).values():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def test_without_a_checkpoint_training_starts_at_step_0(tmp_path, state):
    assert load_checkpoint(tmp_path / "none", *state()) == Position(0, 0, 0, 0.0)


def test_a_checkpoint_restores_weights_optimizer_random_state_and_position(tmp_path, state):
    model, optimizer = state()
    step(model, optimizer)
    save_checkpoint(tmp_path, model, optimizer, Position(1, 50, 2, 1.25))
    step(model, optimizer)

    other, other_optimizer = state()  # the frozen weights are the same: they come from the policy, not from the checkpoint
    torch.manual_seed(123)
    step(other, other_optimizer)
    assert load_checkpoint(tmp_path, other, other_optimizer) == Position(1, 50, 2, 1.25)
    step(other, other_optimizer)
    for name, tensor in trainable_state(model).items():
        assert torch.equal(tensor, trainable_state(other)[name]), name


def test_the_loss_scale_is_part_of_a_checkpoint(tmp_path, state):
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (1024.0, 2.0))
    save_checkpoint(tmp_path, *state(), Position(1), scaler)
    load_checkpoint(tmp_path, *state(), other)
    assert other.get_scale() == 1024.0


def test_the_best_tensors_are_put_back_and_others_go_with_the_next_checkpoint(tmp_path, state):
    model, optimizer = state()
    kept = {name: tensor.detach().clone() for name, tensor in trainable_state(model).items()}
    save_best(tmp_path, model, 3)
    step(model, optimizer)
    save_best(tmp_path, model, 5)
    load_best(tmp_path, model, 3)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in trainable_state(model).items())
    save_checkpoint(tmp_path, model, optimizer, Position(6, best_step=5))
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["000000005.safetensors"]


def test_only_the_newest_checkpoint_is_kept(tmp_path, state):
    model, optimizer = state()
    for number in (2, 10, 11):
        save_checkpoint(tmp_path, model, optimizer, Position(number))
    assert [path.name for path in tmp_path.iterdir()] == ["000000011"]


def test_of_two_checkpoints_the_newest_is_loaded(tmp_path, state):
    """A crash between the rename and the removal leaves both; 9 comes before 10."""
    model, optimizer = state()
    save_checkpoint(tmp_path / "a", model, optimizer, Position(9))
    save_checkpoint(tmp_path / "b", model, optimizer, Position(10))
    os.rename(tmp_path / "b" / "000000010", tmp_path / "a" / "000000010")
    assert load_checkpoint(tmp_path / "a", model, optimizer).step == 10


def test_a_crash_while_writing_leaves_the_checkpoint_before(tmp_path, state, monkeypatch):
    model, optimizer = state()
    save_checkpoint(tmp_path, model, optimizer, Position(1))

    def crash(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, model, optimizer, Position(2))
    assert load_checkpoint(tmp_path, model, optimizer).step == 1
    save_checkpoint(tmp_path, model, optimizer, Position(3))
    assert [path.name for path in tmp_path.iterdir()] == ["000000003"]


def test_a_checkpoint_of_another_method_is_an_error(tmp_path, tiny_llama, lora):
    full = wrap(tiny_llama(), Full(method="full"), 0, "sft.peft")
    save_checkpoint(tmp_path, full, torch.optim.AdamW(full.parameters()), Position(1))
    adapted = wrap(tiny_llama(), lora(), 0, "sft.peft")
    with pytest.raises(ValueError, match="trainable tensors differ"):
        load_checkpoint(tmp_path, adapted, torch.optim.AdamW(trainable_state(adapted).values()))
