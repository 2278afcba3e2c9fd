"""A policy that cannot be merged becomes a plain checkpoint and the adapters on it, in which it can be loaded again."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from posttrain.checkpoints.load import load_model
from posttrain.checkpoints.unmerged import methods_that_stay, write_parts
from posttrain.models.policy import Policy, folder_policy
from posttrain.peft.wrap import load_adapter, save_trained, trainable_state, wrap
from schemas.errors import Refusal

CPU = torch.device("cpu")
# Architecture, methods in the order of training, and those that stay in the order of loading.
CHAINS = [
    ("llama", ["prompt_tuning"], ["prompt_tuning"]),
    ("t5", ["prefix_tuning"], ["prefix_tuning"]),
    ("llama", ["lora", "p_tuning"], ["p_tuning"]),
    ("llama", ["bottleneck houlsby"], ["bottleneck"]),
    ("llama", ["prompt_tuning", "lora"], ["prompt_tuning"]),
    ("llama", ["prefix_tuning", "last_layers head"], ["prefix_tuning"]),
    ("llama", ["bottleneck pfeiffer", "bitfit"], ["bottleneck"]),
    ("llama", ["bottleneck houlsby", "lora"], ["bottleneck", "unmerged"]),
    ("t5", ["bottleneck houlsby", "ia3"], ["bottleneck", "unmerged"]),
    ("llama", ["bottleneck houlsby", "bottleneck pfeiffer"], ["bottleneck", "bottleneck"]),
    ("llama", ["prompt_tuning", "bottleneck houlsby", "lora"], ["bottleneck", "unmerged", "prompt_tuning"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(spec, tiny, tmp_path_factory):
    """Trains one method after the other, each on what the ones before left: returns the policy."""

    def build(kind: str, names: list[str]) -> Policy:
        base = tmp_path_factory.mktemp("base")
        tiny(kind).save_pretrained(base)
        policy = Policy(str(base))
        for seed, name in enumerate(names):
            model = wrap(load_model(policy, CPU), spec(name), seed, "sft.peft")
            for parameter in trainable_state(model).values():
                torch.nn.init.normal_(parameter, std=0.2)
            folder = tmp_path_factory.mktemp("stage")
            save_trained(model, None, spec(name), policy, folder)
            policy = Policy(str(base), adapters=(*policy.adapters, folder / "adapter"))
        return policy

    return build


@pytest.fixture(scope="module", params=CHAINS, ids=lambda chain: f"{chain[0]}-{'-'.join(chain[1])}".replace(" ", "_"))
def parts(request, trained, tmp_path_factory):
    """The policy, the folder that it was taken apart into, and the methods that stay."""
    kind, names, stay = request.param
    policy, folder = trained(kind, names), tmp_path_factory.mktemp("parts")
    return policy, folder, write_parts(load_model(policy, CPU), policy, folder), stay


def test_the_parts_together_compute_what_the_policy_does(parts, logits):
    policy, folder, _, _ = parts
    again = folder_policy(folder)
    assert again.base == str(folder / "base")
    torch.testing.assert_close(
        logits(load_model(again, CPU).eval()), logits(load_model(policy, CPU).eval()), atol=1e-5, rtol=1e-5
    )


def test_adapters_are_numbered_in_the_order_of_loading_where_several_stay(parts):
    _, folder, names, stay = parts
    assert names == (["adapter"] if len(stay) == 1 else [f"adapter-{n + 1}" for n in range(len(stay))])
    assert {path.name for path in folder.iterdir()} == {"base", *names}
    assert list(methods_that_stay(folder_policy(folder).adapters)) == stay


def test_the_base_is_a_plain_checkpoint(parts, logits):
    """It has exactly the weights of its architecture, and without the adapters it computes something else."""
    policy, folder, _, _ = parts
    encoder_decoder = load_model(policy, CPU).config.is_encoder_decoder
    auto = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    base, info = auto.from_pretrained(folder / "base", dtype=torch.float32, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (logits(base.eval()) - logits(load_model(policy, CPU).eval())).abs().max() > 1e-2


def test_a_delta_has_its_loader_beside_it_and_a_peft_adapter_names_no_base(parts):
    _, folder, names, _ = parts
    for name in names:
        is_delta = (folder / name / "delta.json").exists()
        assert (folder / name / "delta.py").exists() == is_delta
        if not is_delta:
            config = json.loads((folder / name / "adapter_config.json").read_text())
            assert (config["base_model_name_or_path"], config["revision"]) == ("", None)


def test_the_adapters_belong_on_this_base_and_on_no_other(parts):
    _, folder, names, _ = parts
    base = load_model(Policy(str(folder / "base")), CPU)
    with torch.no_grad():
        next(base.parameters()).view(-1)[3] += 1e-3
    with pytest.raises(Refusal, match="on which it was trained"):
        load_adapter(base, folder / names[0])


def test_a_soft_prompt_above_a_hub_model_no_longer_names_it(trained, tmp_path):
    """The base beside it may hold more than the hub's: what was trained above the prompt is merged into it."""
    policy = trained("llama", ["prompt_tuning"])
    path = policy.adapters[0] / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "house/llama", "revision": "main"}))
    write_parts(load_model(policy, CPU), policy, tmp_path)
    assert "house/llama" not in (tmp_path / "adapter" / "adapter_config.json").read_text()
