"""What weight decay shrinks, for every method: each tensor's kind is written out, and a step without a gradient shows it."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from posttrain.peft.methods import METHODS
from posttrain.peft.wrap import trainable_state, wrap
from posttrain.training.decay import by_decay
from posttrain.training.optimizer import make_optimizer
from posttrain.training.ppo.actor_critic import add_value_head
from schemas.peft import Peft
from schemas.training import Optimization

# Of each method the trained tensors by the last parts of their names that mean something, in two columns.
DECAYED = {
    "lora": {"lora_A", "lora_B"},
    "adalora": {"lora_A", "lora_B"},
    "vera": set(),
    "oft": {"oft_R"},
    "loha": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    "lokr": {"lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b"},
    "bottleneck": {"down.weight", "up.weight"},
    "prompt_tuning": {"embedding.weight"},
    "prefix_tuning": {"embedding.weight"},
    "p_tuning": {"embedding.weight", "mlp_head.0.weight", "mlp_head.2.weight", "mlp_head.4.weight"},
    "ia3": set(),
    "ln_tuning": set(),
    "bitfit": set(),
    "last_layers": {"proj.weight"},
    "full": {"proj.weight", "embed_tokens.weight"},
}
FIELDS = {"lokr": {"r": 2}, "oft": {"block_size": 4}, "vera": {"r": 8}, "p_tuning": {"hidden_size": 16}}


def wrapped(model: nn.Module, method: str, **fields) -> nn.Module:
    spec = TypeAdapter(Peft).validate_python({"method": method, **FIELDS.get(method, {}), **fields})
    return wrap(model, spec, 0, "sft.peft")


def decayed_names(model: nn.Module) -> set[str]:
    """Names of tensors that a step with a gradient of zero makes smaller."""
    optimizer = make_optimizer(model, Optimization(learning_rate=0.1, weight_decay=0.5))
    with torch.no_grad():
        for tensor in trainable_state(model).values():
            tensor.fill_(1.0)
            tensor.grad = torch.zeros_like(tensor)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    return {name for name, tensor in trainable_state(model).items() if float(tensor.detach().min()) < 1}


@pytest.mark.parametrize("method", METHODS)
def test_of_every_method_matrices_are_decayed_and_nothing_else(tiny_llama, method):
    model = wrapped(tiny_llama(), method)
    found = decayed_names(model)
    expected = {name for name in trainable_state(model) if any(part in name for part in DECAYED[method])}
    assert found == expected
    assert bool(found) == bool(DECAYED[method])


def test_doras_magnitudes_are_not_decayed(tiny_llama):
    assert not any("magnitude" in name for name in decayed_names(wrapped(tiny_llama(), "lora", use_dora=True)))


def test_the_relative_bias_of_t5_is_not_decayed_and_its_matrices_are():
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "vocab_size": 40}
    model = T5ForConditionalGeneration(T5Config(**shape, decoder_start_token_id=0))
    kept = trainable_state(model).keys() - decayed_names(model)
    assert {name.split(".")[-2] for name in kept} == {"relative_attention_bias", "layer_norm", "final_layer_norm"}


def test_a_head_of_one_row_is_a_matrix(tiny_llama):
    model = wrapped(tiny_llama(), "lora")
    add_value_head(model)
    assert {name for name in decayed_names(model) if "value_head" in name} == {
        name for name in trainable_state(model) if name.endswith("value_head.weight")
    }


def test_what_a_model_marks_itself_is_left_alone():
    layer = nn.Linear(3, 3, bias=False)
    layer.weight._no_weight_decay = True
    assert by_decay(layer) == ([], [layer.weight])
