"""Weights that are not finite: found, named and counted at load."""

from __future__ import annotations

import pytest
import torch

from posttrain.checkpoints.finite import refuse_not_finite
from posttrain.checkpoints.load import load_model
from posttrain.models.policy import Policy
from schemas.errors import Refusal


def test_a_checkpoint_with_a_value_that_is_not_finite_is_refused_when_it_is_loaded(checkpoint, tiny_llama, tokenizer, tmp_path):
    """The sound one loads; in the other, tensor and count are named."""
    load_model(Policy(str(checkpoint)), torch.device("cpu"))
    model = tiny_llama(len(tokenizer))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 5] = torch.nan
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(Refusal, match=r"found 1 value that is not finite in model\.layers\.0\.mlp\.up_proj\.weight"):
        load_model(Policy(str(tmp_path / "broken")), torch.device("cpu"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_every_kind_of_value_that_is_not_finite_is_counted(value):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    refuse_not_finite(model, "model")
    with torch.no_grad():
        model[0].weight[0, :2] = value
        model[1].bias[1] = value
    with pytest.raises(Refusal, match=r"found 2 values that are not finite in 0\.weight, and others in 1 more tensors"):
        refuse_not_finite(model, "model")


def test_large_weights_are_finite():
    """Their sum would not be."""
    model = torch.nn.Linear(8, 8)
    torch.nn.init.constant_(model.weight, 3e38)
    refuse_not_finite(model, "model")
