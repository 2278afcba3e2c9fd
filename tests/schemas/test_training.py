"""Sections of the training stages: which numbers a preference loss takes, needs and refuses."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from schemas.training import DPO, SFT, PreferenceLoss, Pretrain

# What a loss is set with to be complete, and which of the numbers it takes, by its equation.
COMPLETE = {"robust": {"label_smoothing": 0.1}, "simpo": {"simpo_gamma": 0.5}}
TAKES = {
    "sigmoid": {"label_smoothing", "sft_weight"},
    "robust": {"label_smoothing", "sft_weight"},
    "ipo": {"sft_weight"},
    "hinge": {"sft_weight"},
    "sigmoid_norm": {"sft_weight"},
    "simpo": {"simpo_gamma", "sft_weight"},
    "orpo": set(),
    "apo_zero": {"sft_weight"},
    "kto_pair": {"sft_weight"},
}


def section(loss: str, **changes) -> DPO:
    return DPO(algorithm="dpo", loss=loss, **COMPLETE.get(loss, {}) | changes)


@pytest.mark.parametrize("loss", get_args(PreferenceLoss))
def test_every_loss_can_be_chosen_with_what_it_needs_alone(loss):
    assert section(loss).loss == loss


@pytest.mark.parametrize("number", [{"label_smoothing": 0.2}, {"simpo_gamma": 0.7}, {"sft_weight": 1.0}], ids=str)
@pytest.mark.parametrize("loss", get_args(PreferenceLoss))
def test_a_loss_takes_the_numbers_of_its_equation_and_refuses_the_others(loss, number):
    (name,) = number
    if name in TAKES[loss]:
        assert getattr(section(loss, **number), name) == number[name]
    else:
        with pytest.raises(ValidationError, match=rf"alignment\.{name}: found {number[name]} with loss {loss}"):
            section(loss, **number)


def test_a_section_can_be_written_out_and_read_back():
    """A form or a stored recipe holds every field, defaults too: none of them may be taken for a number that was set."""
    for loss in get_args(PreferenceLoss):
        assert DPO(**section(loss).model_dump()) == section(loss)


def test_a_margin_of_0_is_a_margin():
    """SimPO without a target margin is a choice, and must be written."""
    assert section("simpo", simpo_gamma=0).simpo_gamma == 0
    with pytest.raises(ValidationError, match=r"alignment\.simpo_gamma: found nothing"):
        DPO(algorithm="dpo", loss="simpo")


def test_dropout_may_not_fall_on_the_policy_itself():
    """PiSSA and OLoRA move the main part of a weight into the adapter, where dropout would change the policy."""
    for init in ("pissa", "pissa_niter_16", "olora"):
        peft = {"method": "lora", "init": init, "dropout": 0.1}
        assert SFT(peft=peft).peft.dropout == 0.1
        with pytest.raises(ValidationError, match=rf"alignment\.peft\.dropout: found 0\.1 with init {init}"):
            section("sigmoid", peft=peft)
    assert section("sigmoid", peft={"method": "lora", "dropout": 0.1}).peft.dropout == 0.1


def test_what_is_optional_is_off():
    """No z-loss, no noise, and a row that does not fit is left out."""
    assert (Pretrain(tokens=1).z_loss, SFT().z_loss, SFT().neftune_alpha, SFT().overlong) == (0.0, 0.0, None, "quarantine")
    assert SFT().dropout is Pretrain(tokens=1).dropout is None
    assert (section("sigmoid").sft_weight, section("sigmoid").overlong) == (0.0, "quarantine")
