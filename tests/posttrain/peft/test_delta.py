"""Adapters load in an environment without this project: with peft alone, or with the one file that is copied beside them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.peft import delta
from posttrain.peft.delta import load_delta
from posttrain.peft.wrap import save_trained, wrap
from posttrain.policy import Policy

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
BY_DELTA = ["bottleneck houlsby", "bottleneck parallel", "bitfit", "last_layers", "last_layers head"]

CONSUMER = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from peft import PeftModel
sys.path.insert(0, sys.argv[1])
from delta import load_delta
root, ids, out = Path(sys.argv[1]), torch.arange(2, 12)[None], {}
for folder in sorted(root.glob("*/adapter")):
    base = AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32)
    peft = (folder / "adapter_config.json").exists()
    model = (PeftModel.from_pretrained(base, folder) if peft else load_delta(base, folder)).eval()
    with torch.no_grad():
        out[folder.parent.name] = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.contiguous()
save_file(out, root / "logits.safetensors")
print(json.dumps(sorted(name for name in sys.modules if name.split(".")[0] in ("posttrain", "schemas"))))
"""


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
    shutil.copy(delta.__file__, tmp_path / "delta.py")
    command = [sys.executable, "-I", "-c", CONSUMER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
    found = load_file(tmp_path / "logits.safetensors")
    assert found.keys() == expected.keys()
    for name, logits in expected.items():
        torch.testing.assert_close(found[name], logits, atol=1e-4, rtol=1e-5, msg=name)


def test_the_loader_stays_short_and_stands_alone():
    """About twenty lines load; with the adapter's own computation and the documentation it is one small file."""
    text = Path(delta.__file__).read_text()
    assert "posttrain" not in text.split('"""', 2)[2]
    assert "schemas" not in text
    assert len(text.splitlines()) < 100


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
