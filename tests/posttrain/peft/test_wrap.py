"""Wrapping: what trains, what stays, what is saved and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from posttrain.models.policy import Policy
from posttrain.peft.methods import METHODS
from posttrain.peft.wrap import load_trainable, save_trained, trainable_state, wrap
from posttrain.scoring.scorer import Scorer
from schemas.errors import Refusal
from schemas.training import Full, Peft

CPU = torch.device("cpu")
FULL = Full(method="full")
IDS = torch.arange(2, 12)[None]


def train_a_step(model, examples) -> None:
    optimizer = torch.optim.AdamW(trainable_state(model).values(), lr=0.05, weight_decay=0.1)
    for _ in range(2):  # LoRA's first matrix has no gradient until the second has moved
        (-Scorer(model, CPU)(examples).logprobs.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def test_the_table_has_every_method_that_a_recipe_may_name():
    kinds = [kind for member in Peft.__origin__.__args__ for kind in member.model_fields["method"].annotation.__args__]
    assert sorted(kinds) == sorted(METHODS)


def test_lora_changes_exactly_its_own_parameters(tiny_llama, lora, random_examples):
    """2 layers, q (32 → 32) and v (32 → 16), rank 4: 2 · (4·32 + 32·4 + 4·32 + 16·4) = 896 trainable numbers."""
    model = wrap(tiny_llama(), lora(), 0, "sft.peft")
    before = snapshot(model)
    train_a_step(model, random_examples([(4, 5)]))
    changed = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if ".lora_" in name} == set(trainable_state(model))
    assert all(".q_proj." in name or ".v_proj." in name for name in changed)
    assert sum(tensor.numel() for tensor in trainable_state(model).values()) == 896


def test_full_trains_every_parameter(tiny_llama, random_examples):
    model = tiny_llama().requires_grad_(False)
    wrap(model, FULL, 0, "sft.peft")
    before = snapshot(model)
    train_a_step(model, random_examples([(4, 5)]))
    assert [name for name, tensor in model.named_parameters() if torch.equal(tensor, before[name])] == []


def test_all_linear_leaves_the_head_and_the_embedding_alone(tiny_llama, lora):
    model = wrap(tiny_llama(), lora(target_modules="all-linear"), 0, "sft.peft")
    layers = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in trainable_state(model)}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}, {"use_rslora": True}])
def test_a_wrapped_model_starts_as_the_model_it_wraps(tiny_llama, lora, changes):
    with torch.no_grad():
        plain = tiny_llama()(IDS).logits
        wrapped = wrap(tiny_llama(), lora(**changes), 0, "sft.peft")(IDS).logits
    torch.testing.assert_close(wrapped, plain, atol=1e-6, rtol=0)


def test_the_scale_is_alpha_over_r_and_over_its_root_for_rslora(tiny_llama, lora):
    """alpha 8, r 4: 8 / 4 = 2 and 8 / √4 = 4."""
    for changes, expected in (({}, 2.0), ({"use_rslora": True}, 4.0)):
        model = wrap(tiny_llama(), lora(**changes), 0, "sft.peft")
        layer = model.get_base_model().model.layers[0].self_attn.q_proj
        assert layer.scaling["default"] == expected


def test_the_seed_fixes_the_new_weights(tiny_llama, lora):
    def first(seed: int) -> torch.Tensor:
        torch.manual_seed(77)
        return next(t for n, t in trainable_state(wrap(tiny_llama(), lora(), seed, "sft.peft")).items() if "lora_A" in n)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_layers_that_do_not_exist_are_refused_with_the_field(tiny_llama, lora):
    with pytest.raises(Refusal) as refused:
        wrap(tiny_llama(), lora(target_modules=("c_attn",)), 0, "alignment.peft")
    assert refused.value.where == "alignment.peft.target_modules"
    assert "c_attn" in refused.value.found


@pytest.mark.parametrize("method", ["full", "lora"])
def test_trainable_tensors_are_loaded_exactly(tiny_llama, lora, method):
    spec = {"full": FULL, "lora": lora()}[method]
    model = wrap(tiny_llama(), spec, 0, "sft.peft")
    state = {name: torch.randn_like(tensor) for name, tensor in trainable_state(model).items()}
    load_trainable(model, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in trainable_state(model).items())
    assert all(tensor.requires_grad for tensor in trainable_state(model).values())


def test_a_missing_or_unexpected_tensor_is_an_error_and_changes_nothing(tiny_llama, lora):
    model = wrap(tiny_llama(), lora(), 0, "sft.peft")
    state = {name: torch.ones_like(tensor) for name, tensor in trainable_state(model).items()}
    before, name = snapshot(model), next(iter(state))
    lacking = {key: value for key, value in state.items() if key != name}
    with pytest.raises(ValueError, match=rf"missing \['{name}'\], unexpected \[\]"):
        load_trainable(model, lacking)
    with pytest.raises(ValueError, match=r"missing \[\], unexpected \['extra'\]"):
        load_trainable(model, {**state, "extra": torch.ones(1)})
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.named_parameters())


def test_a_tensor_of_another_shape_is_an_error_even_where_it_could_be_spread(tiny_llama):
    model = wrap(tiny_llama(), FULL, 0, "sft.peft")
    state = {name: tensor.detach().clone() for name, tensor in trainable_state(model).items()}
    state["model.norm.weight"] = torch.ones(1)
    with pytest.raises(ValueError, match=r"shape: \['model.norm.weight'\]"):
        load_trainable(model, state)


def test_a_saved_adapter_loads_with_peft_alone_on_its_base(tmp_path, tiny_llama, tokenizer, lora, random_examples):
    model = wrap(tiny_llama(), lora(), 0, "sft.peft")
    train_a_step(model, random_examples([(4, 5)]))
    assert save_trained(model, tokenizer, lora(), Policy(str(tmp_path)), tmp_path) == {"adapter": "adapter"}
    reloaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(reloaded(IDS).logits, model.eval()(IDS).logits)
        assert not torch.allclose(reloaded(IDS).logits, tiny_llama()(IDS).logits, atol=1e-2)


def test_an_adapter_names_the_hub_id_of_its_base_but_no_folder(tmp_path, tiny_llama, tokenizer, lora, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    named = {}
    for base in ("someone/some-model", str(tmp_path)):
        save_trained(wrap(tiny_llama(), lora(), 0, "sft.peft"), tokenizer, lora(), Policy(base), tmp_path)
        named[base] = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == {"someone/some-model": "someone/some-model", str(tmp_path): ""}


def test_a_fully_trained_model_is_saved_as_a_checkpoint_with_its_tokenizer(tmp_path, tiny_llama, tokenizer):
    model = wrap(tiny_llama(), FULL, 0, "sft.peft")
    assert save_trained(model, tokenizer, FULL, Policy(""), tmp_path) == {"model": "model"}
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in reloaded.state_dict().items())
    assert (tmp_path / "model" / "tokenizer.json").exists()
