"""Frozen weights in half precision, against autocast that rounds them in every pass."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch

from posttrain.checkpoints.load import load_model
from posttrain.models.policy import Policy
from posttrain.peft.wrap import wrap
from posttrain.scoring.scorer import Scorer
from posttrain.training.half_precision import hold_frozen
from schemas.peft import IA3, Full, LoRA

CPU = torch.device("cpu")
LORA = LoRA(method="lora", r=4)


def losses(model, examples, dtype: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor]]:
    scorer = Scorer(model, CPU, dtype, "padded")
    scores = scorer(examples).per_branch()
    scores.sum().backward()
    return scores.detach(), [p.grad for p in model.parameters() if p.requires_grad]


def test_held_weights_give_the_bits_of_autocast(tiny_llama, random_examples):
    model = wrap(tiny_llama(), LORA, 0, "sft.peft")
    held = copy.deepcopy(model)
    hold_frozen(held, LORA, torch.bfloat16)
    pairs = random_examples([(5, 4, 7), (9, 3, 2)])
    (expected, gradients), (found, own) = (losses(each, pairs, torch.bfloat16) for each in (model, held))
    assert torch.equal(found, expected)
    assert all(map(torch.equal, own, gradients))


def types(model) -> dict[str, torch.dtype]:
    return {name: parameter.dtype for name, parameter in model.named_parameters()}


def test_only_frozen_linear_layers_are_held(tiny_llama):
    model = wrap(tiny_llama(), LORA, 0, "sft.peft")
    hold_frozen(model, LORA, torch.bfloat16)
    halved = {name for name, dtype in types(model).items() if dtype == torch.bfloat16}
    assert halved == {name for name in types(model) if "proj.base_layer" in name}


def test_in_fp32_and_for_methods_that_read_the_weights_otherwise_nothing_is_rounded(tiny_llama):
    for peft, dtype in ((LORA, torch.float32), (LoRA(method="lora", use_dora=True), torch.bfloat16),
                        (IA3(method="ia3"), torch.bfloat16), (Full(method="full"), torch.bfloat16)):  # fmt: skip
        model = wrap(tiny_llama(), peft, 0, "sft.peft")
        hold_frozen(model, peft, dtype)
        assert set(types(model).values()) == {torch.float32}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_file_of_the_checkpoint_is_no_longer_mapped(tiny_llama, tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    model = wrap(load_model(Policy(str(tmp_path)), CPU), LORA, 0, "sft.peft")
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    hold_frozen(model, LORA, torch.bfloat16)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
