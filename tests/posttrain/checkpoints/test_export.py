"""Exported folders load as consumers load them, and a broken export is found. `export` and `verify` start fresh processes."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from posttrain.checkpoints.export import export
from posttrain.checkpoints.fingerprint import logits_of
from posttrain.checkpoints.load import load_model, load_tokenizer, scratch_model
from posttrain.checkpoints.round_trip import Reloaded, RoundTripFailed, compare, numbers, verify
from posttrain.models.policy import Policy, folder_policy
from posttrain.peft.wrap import save_trained, trainable_state, wrap
from schemas.errors import Refusal
from schemas.model import ScratchModel
from schemas.peft import AdaLoRA, BottleneckAdapter, PromptTuning

CPU = torch.device("cpu")
IDS = torch.arange(2, 12)[None]


@pytest.fixture(scope="module")
def policy(checkpoint, lora, tmp_path_factory) -> Policy:
    """The tiny checkpoint with two adapters, as after SFT and DPO with LoRA."""
    plain, model, folders = Policy(str(checkpoint)), load_model(Policy(str(checkpoint)), CPU), []
    for seed, name in enumerate(("sft", "align")):
        model = wrap(model, lora(), seed, f"{name}.peft")
        for parameter in trainable_state(model).values():
            torch.nn.init.normal_(parameter, std=0.3)
        folder = tmp_path_factory.mktemp(name)
        save_trained(model, load_tokenizer(plain), lora(), plain, folder)
        folders.append(folder / "adapter")
        model = model.merge_and_unload()
    return Policy(str(checkpoint), adapters=tuple(folders))


@pytest.fixture(scope="module")
def exported_once(policy, tmp_path_factory):
    """The folder is moved to the place that was named, as the store moves a finished stage."""
    built, folder = tmp_path_factory.mktemp("built") / "partial", tmp_path_factory.mktemp("exported") / "finished"
    outputs = export(policy, built, home=folder)
    return built.rename(folder), outputs


@pytest.fixture
def exported(exported_once, tmp_path):
    """A copy of the export that may be spoilt."""
    return shutil.copytree(exported_once[0], tmp_path / "exported")


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(IDS).logits


def test_a_policy_without_adapters_exports_a_checkpoint_alone(checkpoint, tmp_path):
    """An interrupted export, of which something is left, starts over."""
    for name in ("checkpoint", "adapter", "base"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "leftover").write_text("half a file")
    assert export(Policy(str(checkpoint)), tmp_path) == {"checkpoint": "checkpoint"}
    assert not list(tmp_path.rglob("leftover"))
    assert not (tmp_path / "adapter").exists()
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    assert torch.equal(logits(reloaded), logits(load_model(Policy(str(checkpoint)), CPU)))


def test_checkpoint_and_adapter_on_its_base_compute_what_the_policy_does(exported_once, policy):
    """The last adapter stands alone, the one before it is merged into the base: three different models, two of them equal."""
    folder, outputs = exported_once
    assert outputs == {"checkpoint": "checkpoint", "adapter": "adapter", "base": "base"}
    expected = logits(load_model(policy, CPU))
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(folder / "checkpoint")), expected, atol=1e-4, rtol=0)
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    assert (logits(base) - expected).abs().max() > 0.1
    torch.testing.assert_close(logits(PeftModel.from_pretrained(base, folder / "adapter")), expected, atol=1e-4, rtol=0)


def test_the_tokenizer_travels_with_checkpoint_and_base(exported_once, tokenizer):
    for name in ("checkpoint", "base"):
        reloaded = AutoTokenizer.from_pretrained(exported_once[0] / name)
        assert reloaded("The hotel")["input_ids"] == tokenizer("The hotel")["input_ids"]
        assert reloaded.chat_template == tokenizer.chat_template


AUTO_PEFT = """
import sys, torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import save_file

model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
with torch.no_grad():
    save_file({"logits": model(torch.arange(2, 12)[None]).logits}, sys.argv[2])
"""


def auto_peft(adapter, folder) -> torch.Tensor:
    """Logits of an adapter that peft loads by itself, in a fresh process that works in another folder."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", AUTO_PEFT, str(adapter), str(folder / "found")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=clean)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "found")["logits"]


def test_peft_finds_the_base_of_an_exported_adapter_from_any_folder(exported_once, policy, tmp_path):
    folder, _ = exported_once
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (str(folder / "base"), None)
    found = auto_peft(folder / "adapter", tmp_path)
    torch.testing.assert_close(found, logits(load_model(policy, CPU)), atol=1e-4, rtol=0)


def test_a_soft_prompt_names_its_base_too(checkpoint, tmp_path):
    plain, spec = Policy(str(checkpoint)), PromptTuning(method="prompt_tuning", virtual_tokens=4)
    model = wrap(load_model(plain, CPU), spec, 0, "sft.peft")
    for parameter in trainable_state(model).values():
        torch.nn.init.normal_(parameter, std=0.3)
    save_trained(model, None, spec, plain, tmp_path / "sft")
    policy = Policy(str(checkpoint), adapters=(tmp_path / "sft" / "adapter",))
    assert export(policy, tmp_path / "out") == {"base": "base", "adapter": "adapter"}
    found = auto_peft(tmp_path / "out" / "adapter", tmp_path)
    expected = logits_of(load_model(policy, CPU).eval(), IDS[0].tolist())
    torch.testing.assert_close(found[:, -IDS.shape[1] :], expected, atol=1e-4, rtol=0)


def test_numbers_of_the_round_trip_are_written_for_every_way_of_loading(exported_once):
    """Merging does not round as running beside does: the adapter on its base differs, by less than is allowed."""
    folder, _ = exported_once
    found = json.loads((folder / "round_trip.json").read_text())
    assert [row["way"] for row in found] == ["checkpoint", "adapter on its base", "adapter merged again"]
    assert all(row["same"] for row in found)
    beside = found[1]["difference"]
    assert 0 < beside["logits"] < found[1]["allowed"]
    assert numbers(folder) == {
        "round_trip_logits": max(row["difference"]["logits"] for row in found),
        "round_trip_kl": max(row["difference"]["kl"] for row in found),
        "round_trip_top1": 1,
    }


def test_checkpoint_and_base_stop_where_the_template_ends_a_turn(checkpoint, lora, tmp_path):
    """`<|pad|>` plays the token that ends a turn: it is the only special token beside EOS."""
    own = tmp_path / "own"
    shutil.copytree(checkpoint, own)
    (own / "chat_template.jinja").write_text("{% for m in messages %}{{ m['role'] }}:\n{{ m['content'] }}<|pad|>\n{% endfor %}")
    model = wrap(load_model(Policy(str(own)), CPU), lora(), 0, "sft.peft")
    save_trained(model, load_tokenizer(Policy(str(own))), lora(), Policy(str(own)), tmp_path / "sft")
    export(Policy(str(own), adapters=(tmp_path / "sft" / "adapter",)), tmp_path / "out")
    for name in ("checkpoint", "base"):
        assert GenerationConfig.from_pretrained(tmp_path / "out" / name).eos_token_id == [0, 1]


def alter(path, change) -> None:
    """Change one number of one matrix."""
    tensors = load_file(path)
    name = max(name for name in tensors if "v_proj" in name)
    tensors[name][0, 0] = change(tensors[name][0, 0])
    save_file(tensors, path, {"format": "pt"})


def first_difference(folder) -> Reloaded | None:
    """What `verify` refuses, found in this process."""
    return next((each for each in compare(folder) if not each.same), None)


def test_an_untouched_copy_is_accepted(exported):
    assert first_difference(exported) is None


@pytest.mark.parametrize(
    ("path", "way"),
    [
        ("checkpoint/model.safetensors", "checkpoint"),
        ("adapter/adapter_model.safetensors", "adapter on its base"),
        ("base/model.safetensors", "adapter on its base"),
    ],
)
def test_a_weight_altered_after_the_export_is_found_and_the_way_of_loading_named(exported, path, way):
    alter(exported / path, lambda value: value + 3)
    found = first_difference(exported)
    assert (found.way, found.difference.module) == (way, "model.layers.1.self_attn.v_proj")


def test_what_is_found_is_refused(exported):
    alter(exported / "adapter/adapter_model.safetensors", lambda value: value + 3)
    with pytest.raises(Refusal, match=r"register \(adapter on its base\).*first at model.layers.1.self_attn.v_proj"):
        verify(exported)


def test_a_weight_that_is_no_number_is_found(exported):
    """NaN compares as neither larger nor smaller than the tolerance."""
    alter(exported / "checkpoint/model.safetensors", lambda value: math.nan)
    assert first_difference(exported).difference.module == "model.layers.1.self_attn.v_proj"


def test_a_missing_file_is_found(exported):
    (exported / "checkpoint" / "model.safetensors").unlink()
    with pytest.raises(RoundTripFailed):
        verify(exported)


@pytest.mark.slow
def test_a_policy_that_cannot_be_merged_exports_its_base_and_the_adapter(checkpoint, tmp_path):
    """The loader that lies beside the adapter is altered afterwards, which shows: it is the one that was verified."""
    plain, spec = Policy(str(checkpoint)), BottleneckAdapter(method="bottleneck", variant="houlsby")
    model = wrap(load_model(plain, CPU), spec, 0, "sft.peft")
    for parameter in trainable_state(model).values():
        torch.nn.init.normal_(parameter, std=0.3)
    save_trained(model, None, spec, plain, tmp_path / "sft")
    out = tmp_path / "out"
    (out / "adapter-2").mkdir(parents=True)  # of an interrupted export with other adapters
    policy = Policy(str(checkpoint), adapters=(tmp_path / "sft" / "adapter",))
    assert export(policy, out) == {"base": "base", "adapter": "adapter"}
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"base", "adapter"}
    assert AutoTokenizer.from_pretrained(out / "base").chat_template == load_tokenizer(plain).chat_template
    expected = logits_of(load_model(policy, CPU).eval(), [5, 6, 7])
    assert torch.equal(logits_of(load_model(folder_policy(out), CPU).eval(), [5, 6, 7]), expected)
    loader = out / "adapter" / "delta.py"
    loader.write_text(loader.read_text().replace("return self.scale * update", "return 0 * update"))
    with pytest.raises(Refusal, match=r"register \(adapters on their base\).*first at model.layers.0.self_attn.o_proj"):
        verify(out)


def t5_policy(tokenizer, spec, folder) -> Policy:
    """A T5 from scratch with one adapter."""
    shape = ScratchModel(source="scratch", architecture="t5", hidden_size=32, layers=1, heads=4)
    base = folder / "base"
    scratch_model(shape, tokenizer, 0).save_pretrained(base)
    tokenizer.save_pretrained(base)
    model = wrap(load_model(Policy(str(base)), CPU), spec, 0, "sft.peft")
    for parameter in trainable_state(model).values():
        torch.nn.init.normal_(parameter, std=0.3)
    save_trained(model, tokenizer, spec, Policy(str(base)), folder)
    return Policy(str(base), adapters=(folder / "adapter",))


@pytest.fixture(scope="module")
def seq2seq(_trained_tokenizer, lora, tmp_path_factory) -> Policy:
    """With LoRA."""
    return t5_policy(_trained_tokenizer, lora(target_modules=("q", "v")), tmp_path_factory.mktemp("t5"))


def test_an_encoder_decoder_is_compared_with_decoder_inputs(seq2seq, tmp_path):
    """One number of the decoder's cross-attention altered must show."""
    assert export(seq2seq, tmp_path) == {"checkpoint": "checkpoint", "adapter": "adapter", "base": "base"}
    reloaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32).eval()
    trained = load_model(seq2seq, CPU).eval()
    torch.testing.assert_close(logits_of(reloaded, [5, 6, 7]), logits_of(trained, [5, 6, 7]), atol=1e-5, rtol=0)
    path = tmp_path / "checkpoint" / "model.safetensors"
    tensors = load_file(path)
    tensors["decoder.block.0.layer.1.EncDecAttention.v.weight"][0, 0] += 3
    save_file(tensors, path, {"format": "pt"})
    found = first_difference(tmp_path)
    assert (found.way, found.difference.module) == ("checkpoint", "decoder.block.0.layer.1.EncDecAttention.v")


def test_logits_of_an_encoder_decoder_are_those_of_its_text_given_itself(seq2seq):
    """The decoder is given the start token, 1 here, and then the text."""
    model = load_model(seq2seq, CPU).eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = model(input_ids=ids, decoder_input_ids=torch.tensor([[1, 5, 6]])).logits
    assert torch.equal(logits_of(model, [5, 6, 7]), expected)


def test_an_encoder_decoder_is_asked_for_no_loss(tokenizer, tmp_path):
    """To a loss peft would add AdaLoRA's penalty, under a name that only an adapter in training has."""
    spec = AdaLoRA(method="adalora", init_r=4, target_r=2, target_modules=("q", "v"))
    policy = t5_policy(tokenizer, spec, tmp_path / "sft")
    assert export(policy, tmp_path / "out") == {"checkpoint": "checkpoint", "adapter": "adapter", "base": "base"}
