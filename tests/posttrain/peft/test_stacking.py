"""An adapter that cannot be merged stays in the model, frozen, when the next one is trained."""

from __future__ import annotations

import pytest
import torch

from posttrain.checkpoints.load import merge_adapter
from posttrain.models.policy import Policy
from posttrain.peft.merge import is_plain
from posttrain.peft.soft_prompts import generate, virtual_tokens
from posttrain.peft.stacking import stack_problem
from posttrain.peft.wrap import load_adapter, save_trained, trainable_state, wrap
from posttrain.scoring.reference import Reference
from schemas.errors import Refusal

BELOW = ["bottleneck houlsby", "bottleneck parallel", "prompt_tuning", "prefix_tuning", "p_tuning"]
ABOVE = ["lora", "lora dora", "adalora", "vera", "oft", "ia3", "ln_tuning", "bitfit", "last_layers", "bottleneck pfeiffer"]


@pytest.fixture(scope="module")
def sft(spec, tiny, train, tmp_path_factory):
    """Trains and saves an adapter that stays: returns its folder."""
    made = {}

    def build(name: str, kind: str = "llama"):
        if (name, kind) not in made:
            folder, model = tmp_path_factory.mktemp("sft"), wrap(tiny(kind), spec(name), 0, "sft.peft")
            train(model)
            save_trained(model, None, spec(name), Policy(""), folder)
            made[name, kind] = folder / "adapter"
        return made[name, kind]

    return build


@pytest.mark.parametrize("above", ABOVE)
@pytest.mark.parametrize("below", BELOW)
def test_the_second_adapter_trains_above_the_first_and_both_come_back(sft, spec, tiny, train, logits, tmp_path, below, above):
    first = sft(below)
    policy = merge_adapter(tiny("llama"), first)
    assert not is_plain(policy)
    expected = logits(policy)
    assert (expected - logits(tiny("llama"))).abs().max() > 1e-3
    stays = [p for name, p in policy.named_parameters() if "prompt_encoder" in name or "bottleneck." in name]
    frozen = {p: p.detach().clone() for p in stays}
    assert frozen

    model = wrap(policy, spec(above), 1, "alignment.peft").eval()
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    reference, losses = Reference(model), train(model)
    assert losses[-1] < losses[0]
    assert not set(trainable_state(model).values()) & set(frozen)
    assert set(frozen) <= set(model.parameters())
    assert all(torch.equal(p, before) for p, before in frozen.items())
    trained = logits(model)
    with reference.swapped():
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)

    save_trained(model, None, spec(above), Policy("", adapters=(first,)), tmp_path)
    again = merge_adapter(merge_adapter(tiny("llama"), first), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(again), trained, atol=1e-4, rtol=1e-5)
    assert virtual_tokens(again) == virtual_tokens(policy)
    with pytest.raises(Refusal):
        merge_adapter(tiny("llama"), tmp_path / "adapter")


@pytest.mark.parametrize("below", ["bottleneck houlsby", "prompt_tuning", "prefix_tuning"])
def test_in_an_encoder_decoder_too(sft, spec, tiny, train, logits, tmp_path, below):
    first = sft(below, "t5")
    model = wrap(merge_adapter(tiny("t5"), first), spec("lora"), 1, "alignment.peft").eval()
    train(model)
    save_trained(model, None, spec("lora"), Policy("", adapters=(first,)), tmp_path)
    again = merge_adapter(merge_adapter(tiny("t5"), first), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(again), logits(model), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("below", ["prompt_tuning", "prefix_tuning"])
def test_above_a_soft_prompt_lora_is_merged_and_the_prompt_stays(sft, spec, tiny, train, tmp_path, below):
    first = sft(below)
    model = wrap(merge_adapter(tiny("llama"), first), spec("lora"), 1, "alignment.peft")
    train(model)
    save_trained(model, None, spec("lora"), Policy("", adapters=(first,)), tmp_path)
    again = merge_adapter(merge_adapter(tiny("llama"), first), tmp_path / "adapter").eval()
    assert not any("lora" in name for name, _ in again.named_parameters())
    assert virtual_tokens(again) == 5
    ids = torch.tensor([[5, 6, 7]])
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    assert torch.equal(
        generate(again, ids, torch.ones_like(ids), **options), generate(model.eval(), ids, torch.ones_like(ids), **options)
    )


def test_above_a_bottleneck_adapter_in_the_same_layer_lora_stays_too(sft, spec, tiny, train, logits, tmp_path):
    """adapter((W + BA) x) is not adapter(W x) + BA x. On other layers the merge is exact."""
    first = sft("bottleneck houlsby")
    for targets, merges in (("all-linear", False), (("q_proj", "gate_proj"), True)):
        chosen = spec("lora", target_modules=targets)
        model = wrap(merge_adapter(tiny("llama"), first), chosen, 1, "alignment.peft").eval()
        train(model)
        save_trained(model, None, chosen, Policy("", adapters=(first,)), tmp_path / str(merges))
        again = merge_adapter(merge_adapter(tiny("llama"), first), tmp_path / str(merges) / "adapter").eval()
        assert any("lora" in name for name, _ in again.named_parameters()) != merges
        torch.testing.assert_close(logits(again), logits(model), atol=1e-4, rtol=1e-5)


def test_a_second_bottleneck_adapter_gets_a_name_of_its_own(sft, spec, tiny):
    model = wrap(merge_adapter(tiny("llama"), sft("bottleneck houlsby")), spec("bottleneck houlsby"), 1, "alignment.peft")
    assert all(".bottleneck1." in name for name in trainable_state(model))


@pytest.mark.parametrize("below", ["bottleneck houlsby", "prompt_tuning"])
def test_training_all_weights_above_an_adapter_that_stays_is_refused(sft, spec, tiny, below):
    """The saved model would lack the adapter."""
    with pytest.raises(Refusal, match="full above a") as refused:
        wrap(merge_adapter(tiny("llama"), sft(below)), spec("full"), 1, "alignment.peft")
    assert refused.value.where == "alignment.peft.method"


def test_a_soft_prompt_is_refused_above_another_but_not_above_a_bottleneck(sft, spec, tiny):
    with pytest.raises(Refusal, match="above a soft prompt"):
        wrap(merge_adapter(tiny("llama"), sft("prompt_tuning")), spec("prefix_tuning"), 1, "alignment.peft")
    model = wrap(merge_adapter(tiny("llama"), sft("bottleneck houlsby")), spec("prompt_tuning"), 1, "alignment.peft")
    assert virtual_tokens(model) == 5


def test_a_third_adapter_above_one_that_stays_above_another_is_refused(sft, spec, tiny, tmp_path):
    first = sft("bottleneck houlsby")
    model = wrap(merge_adapter(tiny("llama"), first), spec("lora"), 1, "alignment.peft")
    save_trained(model, None, spec("lora"), Policy("", adapters=(first,)), tmp_path)
    policy = merge_adapter(merge_adapter(tiny("llama"), first), tmp_path / "adapter")
    with pytest.raises(Refusal, match="an adapter above another one"):
        wrap(policy, spec("ia3"), 2, "alignment.peft")


@pytest.mark.parametrize(
    ("name", "below", "part"),
    [
        ("full", set(), None),
        ("lora", {"adapters", "soft prompts"}, None),
        ("p_tuning", {"adapters"}, None),
        ("lora pissa", {"soft prompts"}, None),
        ("p_tuning", {"soft prompts"}, "method"),
        ("full", {"adapters"}, "method"),
        ("lora", {"adapters", "unmerged"}, "method"),
        ("lora pissa", {"adapters"}, "init"),
        ("lora olora", {"adapters"}, "init"),
    ],
)
def test_the_rules_by_family(spec, name, below, part):
    refusal = stack_problem(spec(name), below, "alignment.peft")
    assert (refusal and refusal.where) == (part and f"alignment.peft.{part}")


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_lora_that_moves_part_of_the_weight_is_refused_below_an_adapter(sft, spec, tiny, init):
    """adapter((W - BA) x) + BA x is not adapter(W x): neither the start nor the saved LoRA would be the policy."""
    policy = merge_adapter(tiny("llama"), sft("bottleneck pfeiffer"))
    with pytest.raises(Refusal, match=f"{init} above a bottleneck adapter") as refused:
        wrap(policy, spec(f"lora {init}"), 1, "alignment.peft")
    assert refused.value.where == "alignment.peft.init"


def test_an_adapter_that_was_loaded_is_frozen(sft, tiny):
    for name in BELOW:
        assert trainable_state(load_adapter(tiny("llama"), sft(name))[0]) == {}
