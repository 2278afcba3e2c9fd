"""A saved LoRA against vLLM's own rules, by the content of its folder: `vllm serve BASE --lora-modules name=FOLDER`.

The rules are those of vLLM 0.20: `vllm/lora/peft_helper.py` (features), `vllm/config/lora.py` (ranks) and `vllm/lora/utils.py`
(names of weights). vLLM itself needs a GPU and a torch of its own, so none of it runs here.
"""

from __future__ import annotations

import json
import re

import pytest
from safetensors.torch import load_file

from posttrain.models.policy import Policy
from posttrain.peft.methods import METHODS
from posttrain.peft.wrap import save_trained, wrap
from schemas.peft import LoRA

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of `--max-lora-rank`
SERVED = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"}
WEIGHT = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@pytest.fixture
def saved(tiny_llama, tokenizer, tmp_path):
    """Saves a LoRA as a stage does: its folder, and the model."""

    def make(**options):
        model = tiny_llama(len(tokenizer))
        model.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        spec = LoRA(method="lora", **options)
        save_trained(wrap(model, spec, 0, "alignment.peft"), None, spec, Policy(str(tmp_path / "base")), tmp_path)
        return tmp_path / "adapter"

    return make


@pytest.mark.parametrize(
    "options",
    [{"r": 8}, {"r": 16, "alpha": 8}, {"r": 4, "use_rslora": True}, {"r": 8, "target_modules": ["q_proj", "v_proj"]}],
    ids=str,
)
def test_rank_features_and_names_are_those_that_vllm_loads(saved, options):
    folder = saved(**options)
    config, weights = json.loads((folder / "adapter_config.json").read_text()), load_file(folder / "adapter_model.safetensors")
    assert config["r"] <= max(RANKS)
    assert config["bias"] == "none"
    assert not config["modules_to_save"]
    assert not config["use_dora"]
    assert not config.get("rank_pattern")
    assert not config.get("alpha_pattern")
    assert set(config["target_modules"]) <= SERVED
    found = {name: WEIGHT.fullmatch(name) for name in weights}
    assert all(found.values()), "vLLM refuses a weight that is neither lora_A nor lora_B"
    assert {match["module"].rsplit(".", 1)[-1] for match in found.values()} == set(config["target_modules"])
    for name, match in found.items():
        assert weights[name].shape["AB".index(match["side"])] == config["r"]
    pairs = {match["module"]: set() for match in found.values()}
    for match in found.values():
        pairs[match["module"]].add(match["side"])
    assert all(sides == {"A", "B"} for sides in pairs.values())


def test_the_table_says_that_lora_alone_is_served():
    assert [name for name, method in METHODS.items() if method.vllm] == ["lora"]
