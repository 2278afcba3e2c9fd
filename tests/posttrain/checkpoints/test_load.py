"""Models from scratch and from folders, and folders that are no model."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.checkpoints.fingerprint import logits_of
from posttrain.checkpoints.load import load_model, load_tokenizer, scratch_config, scratch_model
from posttrain.models.policy import Policy
from posttrain.peft.wrap import save_trained, trainable_state, wrap
from posttrain.runtime.device import resolve_device, resolve_dtype
from schemas.errors import Refusal
from schemas.model import ScratchModel
from schemas.recipe import Compute

CPU = torch.device("cpu")
SPEC = ScratchModel(source="scratch", hidden_size=48, layers=2, heads=4, kv_heads=2, vocab_size=400, max_length=64)
IDS = torch.arange(2, 12)[None]


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A copy of the tiny checkpoint that may be spoilt."""
    return shutil.copytree(checkpoint, tmp_path / "model")


def edit_config(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def refused(folder, *adapters) -> Refusal:
    with pytest.raises(Refusal) as raised:
        load_model(Policy(str(folder), adapters=adapters), CPU)
    return raised.value


def test_a_scratch_model_has_the_shape_of_its_recipe(tokenizer):
    """Feed-forward: 48 · 8 / 3 = 128, a multiple of 32 already. 12 numbers per head, 2 key-value heads."""
    model = scratch_model(SPEC, tokenizer, seed=0)
    block = model.model.layers[0]
    assert len(model.model.layers) == 2
    assert block.mlp.gate_proj.weight.shape == (128, 48)
    assert block.self_attn.q_proj.weight.shape == (48, 48)
    assert block.self_attn.k_proj.weight.shape == (24, 48)
    assert model.config.rope_parameters["rope_theta"] == 500_000
    assert model.config.max_position_embeddings == 64
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.shape == (len(tokenizer), 48), "as many rows as the tokenizer has, not as the recipe allows"
    assert (model.config.eos_token_id, model.config.pad_token_id, model.config.bos_token_id) == (0, 1, None)


def test_new_weights_have_the_standard_deviation_of_the_recipe(tokenizer):
    """Of 320 · 48 embeddings; their standard error is below 1%."""
    specs = [SPEC, SPEC.model_copy(update={"initializer_range": 0.1})]
    found = [float(scratch_model(spec, tokenizer, seed=0).model.embed_tokens.weight.std()) for spec in specs]
    assert found == pytest.approx([0.02, 0.1], rel=0.03)


def test_a_scratch_gpt2_has_learned_positions_and_no_dropout(tokenizer):
    """Feed-forward: 4 · 48 = 192; one matrix makes queries, keys and values: 3 · 48 = 144 (GPT-2 stores them transposed)."""
    spec = SPEC.model_copy(update={"architecture": "gpt2", "kv_heads": None})
    model = scratch_model(spec, tokenizer, seed=0)
    block = model.transformer.h[0]
    assert len(model.transformer.h) == 2
    assert model.transformer.wpe.weight.shape == (64, 48)
    assert block.mlp.c_fc.weight.shape == (48, 192)
    assert block.attn.c_attn.weight.shape == (48, 144)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.lm_head.weight.shape == (len(tokenizer), 48)
    assert {part.p for part in model.modules() if isinstance(part, torch.nn.Dropout)} == {0.0}
    assert (model.config.eos_token_id, model.config.pad_token_id, model.config.bos_token_id) == (0, 1, None)


def test_a_scratch_t5_has_two_stacks_a_gated_gelu_and_starts_from_padding(tokenizer):
    """12 numbers per head, 4 heads; two matrices of 48 · 8 / 3 = 128 rows into the feed-forward layer."""
    spec = SPEC.model_copy(update={"architecture": "t5", "kv_heads": None})
    model = scratch_model(spec, tokenizer, seed=0)
    block = model.decoder.block[0]
    assert (len(model.encoder.block), len(model.decoder.block)) == (2, 2)
    assert block.layer[0].SelfAttention.q.weight.shape == (48, 48)
    assert block.layer[2].DenseReluDense.wi_0.weight.shape == block.layer[2].DenseReluDense.wi_1.weight.shape == (128, 48)
    assert model.lm_head.weight is model.shared.weight
    assert model.lm_head.weight.shape == (len(tokenizer), 48)
    assert {part.p for part in model.modules() if isinstance(part, torch.nn.Dropout)} == {0.0}
    assert (model.config.decoder_start_token_id, model.config.pad_token_id, model.config.eos_token_id) == (1, 1, 0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
def test_a_saved_scratch_model_is_loaded_as_what_it_is(architecture, tokenizer, tmp_path):
    spec = SPEC.model_copy(update={"architecture": architecture, "kv_heads": None})
    model = scratch_model(spec, tokenizer, seed=0).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_model(Policy(str(tmp_path)), CPU).eval()
    assert type(loaded) is type(model)
    assert torch.equal(logits_of(loaded, IDS[0].tolist()), logits_of(model, IDS[0].tolist()))


@pytest.mark.parametrize("untied", [False, True])
def test_a_t5_of_the_hub_keeps_its_head(untied, tokenizer, tmp_path):
    """Version 1.1 and FLAN: a head of its own and unscaled outputs, which their config says by `tie_word_embeddings: false`.

    transformers 5.23 ties every T5 unless the file has two different matrices, and saves `true` in any case.
    """
    model = scratch_model(SPEC.model_copy(update={"architecture": "t5", "kv_heads": None}), tokenizer, seed=0).eval()
    if untied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    del config["scale_decoder_outputs"]
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": not untied}))
    model.config.scale_decoder_outputs = not untied
    expected = logits_of(model, IDS[0].tolist())
    loaded = load_model(Policy(str(tmp_path / "hub")), CPU).eval()
    assert torch.equal(logits_of(loaded, IDS[0].tolist()), expected)
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(logits_of(load_model(Policy(str(tmp_path / "again")), CPU).eval(), IDS[0].tolist()), expected)


@pytest.mark.parametrize(("hidden", "given", "expected"), [(128, None, 352), (96, None, 256), (128, 100, 100)])
def test_the_feed_forward_width_by_hand(hidden, given, expected):
    """128 · 8 / 3 = 341.3, next multiple of 32: 352. 96 · 8 / 3 = 256 exactly. What the recipe gives is taken as it is."""
    spec = SPEC.model_copy(update={"hidden_size": hidden, "intermediate_size": given})
    assert scratch_config(spec, 400).intermediate_size == expected


def test_the_seed_fixes_every_weight(tokenizer):
    one, same, other = (scratch_model(SPEC, tokenizer, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_a_folder_is_loaded_in_fp32_with_its_tokenizer(folder):
    edit_config(folder, dtype="bfloat16")
    policy = Policy(str(folder))
    model, expected = load_model(policy, CPU), load_file(folder / "model.safetensors")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in expected.items())
    assert load_tokenizer(policy).chat_template is not None


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"num_hidden_layers": 3}, "missing_keys"),
        ({"num_hidden_layers": 1}, "unexpected_keys"),
        ({"intermediate_size": 40}, "mismatch"),
        ({"vocab_size": 500}, "mismatch"),
    ],
)
def test_weights_that_do_not_fit_the_architecture_are_refused(folder, changes, found):
    edit_config(folder, **changes)
    refusal = refused(folder)
    assert refusal.where == f"model ({folder})"
    assert found in refusal.found


def truncate(folder) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    "spoil",
    [
        shutil.rmtree,
        lambda f: (f / "config.json").unlink(),
        lambda f: (f / "config.json").write_text("{"),
        lambda f: (f / "model.safetensors").unlink(),
        truncate,
    ],
    ids=["no folder", "no config", "broken config", "no weights", "truncated weights"],
)
def test_a_folder_that_cannot_be_loaded_is_refused(folder, spoil, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spoil(folder)
    assert refused(folder).where == f"model ({folder})"


def test_weights_that_are_not_safetensors_are_not_read(folder):
    """A pickle may run code when it is read."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert refused(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(Refusal):
        load_tokenizer(Policy(str(folder)))


@pytest.fixture
def adapters(tmp_path, checkpoint, lora, tokenizer):
    """Two adapters with random weights, the second trained on the first merged; and the logits after both."""
    model, folders = load_model(Policy(str(checkpoint)), CPU), []
    for seed, name in enumerate(("first", "second")):
        model = wrap(model, lora(), seed, "sft.peft")
        for parameter in trainable_state(model).values():
            torch.nn.init.normal_(parameter, std=0.3)
        save_trained(model, tokenizer, lora(), Policy(str(checkpoint)), tmp_path / name)
        folders.append(tmp_path / name / "adapter")
        model = model.merge_and_unload()
    with torch.no_grad():
        return folders, model.eval()(IDS).logits


def logits(checkpoint, *folders) -> torch.Tensor:
    with torch.no_grad():
        return load_model(Policy(str(checkpoint), adapters=folders), CPU).eval()(IDS).logits


def test_adapters_are_merged_on_top_of_each_other(checkpoint, adapters):
    folders, expected = adapters
    torch.testing.assert_close(logits(checkpoint, *folders), expected, atol=1e-5, rtol=1e-5)
    for fewer in ([], folders[:1]):
        assert (logits(checkpoint, *fewer) - expected).abs().max() > 1e-2


def test_an_adapter_is_refused_on_a_base_without_the_adapters_below_it(checkpoint, adapters):
    assert "trained" in refused(checkpoint, adapters[0][1]).allowed


def test_a_model_with_merged_adapters_has_plain_parameters(checkpoint, adapters):
    model = load_model(Policy(str(checkpoint), adapters=tuple(adapters[0])), CPU)
    assert [name for name, _ in model.named_parameters() if "lora" in name] == []
    assert not hasattr(model, "peft_config")


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_an_adapter_with_a_tensor_too_few_or_too_many_is_an_error(checkpoint, adapters, change):
    """peft only warns, and merges what it has; the design asks for an error."""
    path = adapters[0][0] / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if "lora_B" in name)
    if change == "missing":
        del tensors[name]
    else:
        tensors[name.replace("layers.0", "layers.7")] = tensors[name].clone()
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(Exception, match="adapter"):
        load_model(Policy(str(checkpoint), adapters=(adapters[0][0],)), CPU)


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("auto", "cpu", torch.float32),
        ("float32", "cpu", torch.float32),
    ],
)
def test_arithmetic_by_device(dtype, device, expected):
    assert resolve_dtype(Compute(dtype=dtype, device=device)) == expected


@pytest.mark.parametrize("able", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bfloat16_on_a_cpu_needs_a_chip_that_gains_by_it(able, monkeypatch):
    compute = Compute(dtype="bfloat16", device="cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, able: True})
    assert resolve_dtype(compute) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, able: False})
    with pytest.raises(Refusal, match="slower than float32") as refused:
        resolve_dtype(compute)
    assert refused.value.where == "compute.dtype"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_float16_without_a_gpu_is_refused():
    """The recipe may leave the device open: then only the machine can tell."""
    with pytest.raises(Refusal, match="no CUDA device") as refused:
        resolve_dtype(Compute(dtype="float16"))
    assert refused.value.where == "compute.dtype"


def test_two_processes_cannot_share_a_cuda_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device(Compute(device="cuda", num_processes=2)).type == "cuda"
    with pytest.raises(Refusal, match="2 CUDA devices") as refused:
        resolve_device(Compute(device="cuda", num_processes=3))
    assert refused.value.where == "compute.num_processes"


def test_the_cpu_is_taken_when_asked_for():
    assert resolve_device(Compute(device="cpu")) == CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused():
    assert resolve_device(Compute()) == CPU
    with pytest.raises(Refusal, match=r"compute\.device"):
        resolve_device(Compute(device="cuda"))
