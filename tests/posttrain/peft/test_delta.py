"""Adapters load in an environment without this project: with peft alone, as a checkpoint, or by the documented loaders."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel

from posttrain.models.policy import Policy
from posttrain.peft import delta
from posttrain.peft.delta import load_delta
from posttrain.peft.merge import merge
from posttrain.peft.wrap import save_trained, trainable_state, wrap

BY_PEFT = [
    "lora",
    "lora dora",
    "lora pissa",
    "adalora",
    "vera",
    "oft",
    "ia3",
    "ln_tuning",
    "prompt_tuning",
    "prefix_tuning",
    "p_tuning",
]
BY_DELTA = ["bottleneck houlsby", "bottleneck pfeiffer", "bottleneck parallel", "bitfit", "last_layers", "last_layers head"]
STANDARD = ["bottleneck parallel", "bitfit", "last_layers", "last_layers head"]

# Runs with -I -S: neither the current folder nor PYTHONPATH is searched, and no .pth file leads to this project.
CONSUMER = """
import importlib.util, sys
sys.path.append(sys.argv[2])
assert not any(importlib.util.find_spec(name) for name in ("posttrain", "schemas", "tasks", "flows"))
import torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from peft import PeftModel
sys.path.append(sys.argv[1])
from delta import load_delta
from documented import load_bottleneck
root, ids, out = Path(sys.argv[1]), torch.arange(2, 12)[None], {}
def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
def note(way, model):
    with torch.no_grad():
        out[f"{folder.name} {way}"] = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.contiguous()
for folder in sorted(path.parent for path in root.glob("*/adapter")):
    if (folder / "adapter" / "adapter_config.json").exists():
        note("peft", PeftModel.from_pretrained(load(root / "base"), folder / "adapter"))
    else:
        note("delta", load_delta(load(root / "base"), folder / "adapter"))
    if folder.name.startswith("bottleneck"):
        note("documented", load_bottleneck(load(root / "base"), folder / "adapter"))
    if (folder / "checkpoint").exists():
        note("checkpoint", load(folder / "checkpoint"))
save_file(out, root / "logits.safetensors")
"""


def documented() -> str:
    """The loader that the documentation prints."""
    return textwrap.dedent(delta.__doc__.partition("to be trained:")[2])


@pytest.mark.slow
def test_every_adapter_loads_in_a_fresh_process_without_this_project(spec, tiny, train, tmp_path):
    """One process for all, since its imports take most of the time."""
    expected, ids = {}, torch.arange(2, 12)[None]
    tiny("llama").save_pretrained(tmp_path / "base")
    for name in (*BY_PEFT, *BY_DELTA):
        model = wrap(tiny("llama"), spec(name), 0, "sft.peft")
        train(model, steps=2)
        save_trained(model, None, spec(name), Policy(""), tmp_path / name)
        with torch.no_grad():
            expected[name] = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        if name in STANDARD:
            merge(model).save_pretrained(tmp_path / name / "checkpoint")
    shutil.copy(delta.__file__, tmp_path / "delta.py")
    (tmp_path / "documented.py").write_text(documented())
    command = [sys.executable, "-I", "-S", "-c", CONSUMER, str(tmp_path), sysconfig.get_path("purelib")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "logits.safetensors")
    ways = (
        {f"{name} peft" for name in BY_PEFT}
        | {f"{name} delta" for name in BY_DELTA}
        | {f"{name} checkpoint" for name in STANDARD}
    )
    assert found.keys() == ways | {f"{name} documented" for name in BY_DELTA if name.startswith("bottleneck")}
    for way, logits in found.items():
        torch.testing.assert_close(logits, expected[way.rpartition(" ")[0]], atol=1e-4, rtol=1e-5, msg=way)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
def test_the_documented_loader_computes_every_activation(spec, tiny, train, logits, tmp_path, activation):
    chosen = spec("bottleneck houlsby", activation=activation)
    model = wrap(tiny("llama"), chosen, 0, "sft.peft")
    train(model, steps=2)
    save_trained(model, None, chosen, Policy(""), tmp_path)
    names: dict = {}
    exec(documented(), names)
    again = names["load_bottleneck"](tiny("llama"), tmp_path / "adapter")
    torch.testing.assert_close(logits(again.eval()), logits(model.eval()), atol=1e-5, rtol=1e-5)


def test_the_loaders_stay_short_and_stand_alone():
    """Twenty lines are documented; with its checks and the adapter's own computation the file is small."""
    text = Path(delta.__file__).read_text()
    assert "posttrain" not in text.split('"""', 2)[2]
    assert "schemas" not in text
    assert len(text.splitlines()) < 105
    assert len(documented().strip().splitlines()) <= 20


@pytest.fixture
def saved(spec, tiny, tmp_path):
    def build(name: str) -> Path:
        save_trained(wrap(tiny("llama"), spec(name), 0, "sft.peft"), None, spec(name), Policy(""), tmp_path)
        return tmp_path / "adapter"

    return build


@pytest.mark.parametrize("name", BY_DELTA)
@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_a_wrong_tensor_is_an_error(saved, tiny, name, change):
    folder = saved(name)
    tensors = load_file(folder / "delta.safetensors")
    first = sorted(tensors)[0]
    if change == "missing":
        tensors.pop(first)
    elif change == "unexpected":
        tensors["model.norm.bias"] = torch.zeros(32)
    else:
        tensors[first] = torch.zeros(7)
    save_file(tensors, folder / "delta.safetensors")
    with pytest.raises(ValueError, match=change):
        load_delta(tiny("llama"), folder)


def test_a_bottleneck_adapter_is_not_put_where_one_is(saved, tiny):
    folder = saved("bottleneck houlsby")
    model = load_delta(tiny("llama"), folder)
    with pytest.raises(ValueError, match="already"):
        load_delta(model, folder)


@torch.no_grad()
def test_a_bias_that_two_modules_share_is_still_shared(spec, tmp_path):
    """BERT's output head and the module around it hold one bias."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}

    def build() -> BertLMHeadModel:
        torch.manual_seed(0)
        return BertLMHeadModel(BertConfig(vocab_size=97, is_decoder=True, **shape)).eval()

    model = wrap(build(), spec("bitfit"), 0, "sft.peft")
    for parameter in trainable_state(model).values():
        parameter += 0.1 * torch.randn_like(parameter)
    save_trained(model, None, spec("bitfit"), Policy(""), tmp_path)
    loaded, ids = load_delta(build(), tmp_path / "adapter"), torch.arange(2, 9)[None]
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
