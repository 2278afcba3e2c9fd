"""Tensors without numbers, compared with real ones: the same forms, the same sharing of memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import grouped_mm, linear, scaled_dot_product_attention
from transformers import AutoModelForCausalLM, LlamaConfig

from posttrain.runtime.fake_tensors import give_tensors, pretending
from posttrain.runtime.hollow import Hollow

ENDS = torch.tensor([1, 4, 8], dtype=torch.int32)  # of the rows of three experts
OPERATIONS = {
    "product": lambda: torch.zeros(2, 5, 8) @ torch.zeros(8, 3),
    "transposed": lambda: torch.zeros(4, 6).t().contiguous()[1:, ::2],
    "broadcast": lambda: torch.zeros(4, 1) + torch.zeros(6).double(),
    "in place": lambda: torch.zeros(4, 6).mul_(2).add_(torch.ones(6)),
    "rows by a mask": lambda: torch.zeros(5, 3)[torch.arange(5) > 1],
    "rows by number": lambda: torch.zeros(5, 3)[torch.tensor([4, 4, 0])],
    "parts": lambda: torch.cat(torch.zeros(6, 4).split([1, 2, 3])[1:], 0),
    "halves": lambda: torch.zeros(6, dtype=torch.bfloat16) + torch.zeros(6, dtype=torch.float16),
    "most likely": lambda: torch.zeros(3, 7).log_softmax(-1).max(-1).values,
    "experts": lambda: grouped_mm(torch.zeros(8, 8), torch.zeros(3, 8, 4), offs=ENDS),
    "gradient of experts": lambda: grouped_mm(torch.zeros(8, 8), torch.zeros(8, 4), offs=ENDS),
    "halves of experts": lambda: grouped_mm(torch.zeros(8, 8).half(), torch.zeros(3, 8, 8).half(), offs=ENDS),
    "attention": lambda: scaled_dot_product_attention(*torch.zeros(3, 1, 4, 6, 8), is_causal=True).transpose(1, 2),
}


def form(tensor: Tensor) -> tuple:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device.type, tensor.untyped_storage().nbytes()


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_have_the_form_of_real_ones_when_they_are_new_and_when_they_are_known(name):
    expected = form(OPERATIONS[name]())
    for _ in range(2):
        with pretending():
            made = OPERATIONS[name]()
            assert isinstance(made, Hollow)
            assert form(made) == expected


def test_autocast_applies():
    """A linear layer in bfloat16, of which the product is; without autocast fp32."""
    with pretending():
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(torch.zeros(2, 4), torch.zeros(3, 4)).dtype == torch.bfloat16
        assert linear(torch.zeros(2, 4), torch.zeros(3, 4)).dtype == torch.float32


def test_a_product_seen_before_is_counted_once():
    """[2, 3, 4] @ [4, 5] is a product of matrices and a view of it: 120 bytes, the second time as well."""
    with pretending() as live:
        left, right = torch.zeros(2, 3, 4), torch.zeros(4, 5)
        before = live.begin()
        for _ in range(2):
            made = left @ right
            assert (made.shape, live.live - before) == ((2, 3, 5), 4 * 30)
            del made


def test_what_works_in_place_returns_what_it_was_given():
    with pretending():
        numbers = torch.zeros(3)
        for _ in range(2):
            assert numbers.add_(1) is numbers


def test_other_data_is_used_from_then_on():
    with pretending():
        numbers = torch.zeros(3)
        numbers.data = torch.zeros(5, dtype=torch.bfloat16)
        assert (numbers * 2).shape == (5,)
        assert (numbers * 2).dtype == torch.bfloat16


def test_there_is_no_number_to_ask_for():
    with pretending(), pytest.raises((RuntimeError, NotImplementedError)):
        float(torch.zeros(3).sum())


def test_gradients_of_a_model_have_the_forms_of_real_ones():
    config = LlamaConfig(vocab_size=17, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2)  # fmt: skip
    ids = torch.arange(10)[None]
    real = AutoModelForCausalLM.from_config(config)
    real(input_ids=ids, labels=ids).loss.backward()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pretending():
        give_tensors(model)
        model(input_ids=ids, labels=ids).loss.backward()
        found = {name: form(parameter.grad) for name, parameter in model.named_parameters()}
    assert found == {name: form(parameter.grad) for name, parameter in real.named_parameters()}
