"""GGUF files written by the gguf package, as llama.cpp's converter writes them: loaded, exported and refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize

from posttrain.checkpoints.export import export
from posttrain.checkpoints.load import load_config, load_model, load_tokenizer
from posttrain.checkpoints.model_cache import converted
from posttrain.models.policy import Policy, model_origin, source_policy
from posttrain.peft.wrap import save_trained, trainable_state, wrap
from posttrain.pipeline.chain import Chain
from posttrain.pipeline.preflight import check_gguf, preflight
from posttrain.runtime.integrity import file_digest
from posttrain.runtime.store import Store
from schemas.errors import Refusal
from schemas.load import validate_recipe
from schemas.model import GgufModel

CPU = torch.device("cpu")
IDS = torch.arange(2, 12)[None]
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
INNER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    module = name.removesuffix(".weight")
    if module in OUTER:
        return f"{OUTER[module]}.weight"
    _, _, block, inner = module.split(".", 3)
    return f"blk.{block}.{INNER[inner]}.weight"


def turned(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp pairs neighbouring rows for rotary positions, transformers the halves of a head."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model, tokenizer, kind: gguf.GGMLQuantizationType, architecture: str = "llama") -> Path:
    """A Llama and its byte-level BPE in one file; matrices are of the given type, vectors fp32 as the converter leaves them."""
    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _write_tokenizer(writer, tokenizer)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight, target = tensor.numpy(), gguf_name(name)
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(target.split(".")[-2])
        weight = np.ascontiguousarray(turned(weight, heads) if heads else weight)
        if weight.ndim == 1:
            writer.add_tensor(target, weight)
        else:
            writer.add_tensor(target, quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer) -> None:
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)


@pytest.fixture(scope="module")
def original(tiny_llama, _trained_tokenizer):
    """A Llama whose matrices have rows of 32 or 64 numbers, as the blocks of Q8_0 need."""
    return tiny_llama(len(_trained_tokenizer), initializer_range=0.2, intermediate_size=64, rope_theta=500_000.0)


@pytest.fixture
def path(original, tokenizer, tmp_path) -> Path:
    """The model as a file in fp32."""
    return write_gguf(tmp_path / "tiny.gguf", original, tokenizer, gguf.GGMLQuantizationType.F32)


def policy_of(path: Path) -> Policy:
    return source_policy(GgufModel(source="gguf", path=str(path)))


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(IDS).logits


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_in_fp32_computes_the_same_logits_as_the_model_that_it_was_made_from(tied, tiny_llama, tokenizer, tmp_path):
    model = tiny_llama(len(tokenizer), initializer_range=0.2, tie_word_embeddings=tied)
    loaded = load_model(policy_of(write_gguf(tmp_path / "tiny.gguf", model, tokenizer, gguf.GGMLQuantizationType.F32)), CPU)
    assert torch.equal(logits(loaded), logits(model))
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied


@pytest.mark.parametrize(("kind", "error"), [("F16", 1e-3), ("Q8_0", 1e-2)])
def test_a_smaller_type_is_dequantised_to_fp32(kind, error, original, tokenizer, tmp_path):
    """The expected weights are what the gguf package makes of its own blocks; at most `error` from the original."""
    kind = gguf.GGMLQuantizationType[kind]
    loaded = load_model(policy_of(write_gguf(tmp_path / "tiny.gguf", original, tokenizer, kind)), CPU)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    for name, tensor in original.state_dict().items():
        if tensor.ndim == 2:
            expected = torch.from_numpy(dequantize(quantize(tensor.numpy(), kind), kind))
            assert torch.equal(loaded.state_dict()[name], expected), name
            assert 0 < (expected - tensor).abs().max() < error


def test_the_tokenizer_comes_from_the_file(path, tokenizer):
    own = load_tokenizer(policy_of(path))
    text = "User:\nThe hotel, 1, 2, 3.<|endoftext|>"
    assert own(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (own.eos_token_id, own.pad_token_id, own.bos_token_id) == (0, 1, None)
    assert own.chat_template == tokenizer.chat_template


def test_the_architecture_is_read_from_the_header(path, original):
    config = load_config(policy_of(path))
    for field in ("hidden_size", "num_hidden_layers", "num_key_value_heads", "vocab_size", "rope_parameters"):
        assert getattr(config, field) == getattr(original.config, field), field


def test_an_adapter_on_a_gguf_file_is_exported_with_its_base_as_safetensors(path, lora, tokenizer, tmp_path):
    """Consumers have no GGUF file: `export` verifies checkpoint, and adapter on the shipped base, in a fresh process."""
    policy, model = policy_of(path), load_model(policy_of(path), CPU)
    model = wrap(model, lora(), 0, "sft.peft")
    for parameter in trainable_state(model).values():
        torch.nn.init.normal_(parameter, std=0.3)
    save_trained(model, tokenizer, lora(), policy, tmp_path / "sft")
    assert json.loads((tmp_path / "sft" / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == ""
    adapted = Policy(policy.base, gguf=policy.gguf, adapters=(tmp_path / "sft" / "adapter",))
    assert export(adapted, tmp_path / "out") == {"checkpoint": "checkpoint", "adapter": "adapter", "base": "base"}
    assert list((tmp_path / "out" / "base").glob("*.safetensors"))


def test_a_file_counts_by_content(path):
    (origin,) = model_origin(GgufModel(source="gguf", path=str(path)))
    assert (origin.digest, origin.location) == (file_digest(path), str(path))


def refusal_of(path: Path) -> Refusal:
    """What is said of a file before a run: by the check of the file, or by its conversion."""
    for look in (check_gguf, lambda file: converted(file, "0" * 64, path.parent / "cache")):
        try:
            look(path)
        except Refusal as refusal:
            return refusal
    pytest.fail(f"{path} is not refused")


def test_a_file_is_converted_once_into_a_folder_that_computes_and_encodes_the_same(path, original, tokenizer, tmp_path):
    folder = converted(path, file_digest(path), tmp_path / "cache")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
    policy = Policy(str(folder))
    assert torch.equal(logits(load_model(policy, CPU)), logits(original))
    text = "User:\nThe hotel, 1, 2, 3.<|endoftext|>"
    assert load_tokenizer(policy)(text)["input_ids"] == tokenizer(text)["input_ids"]
    made = (folder / "model.safetensors").stat()
    path.unlink()  # not read again
    assert converted(path, folder.name, tmp_path / "cache") == folder
    assert (folder / "model.safetensors").stat() == made


def test_a_conversion_that_was_killed_leaves_no_folder_that_is_taken_for_whole(path, tmp_path):
    cache, digest = tmp_path / "cache", file_digest(path)
    partial = cache / f".{digest}.0123456789abcdef.partial"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half")
    assert load_model(Policy(str(converted(path, digest, cache))), CPU)
    assert not partial.exists()


def test_a_chain_loads_the_converted_folder_and_names_the_file_as_its_input(path, tmp_path):
    recipe = validate_recipe({"name": "g", "model": {"source": "gguf", "path": str(path)}, "sft": {},
                              "data": {"instructions": "sample://instructions"}}, "g.yaml")  # fmt: skip
    chain = Chain(recipe, Store(tmp_path / "store"))
    assert chain.model.path == str(tmp_path / "store" / "cache" / "gguf" / file_digest(path))
    assert chain.policy_before("sft").base == chain.model.path
    assert [(origin.digest, origin.location) for origin in chain.policy_origins("sft")] == [(file_digest(path), str(path))]


def test_a_good_file_passes(path):
    check_gguf(path)


def test_an_architecture_that_transformers_cannot_dequantise_is_refused(original, tokenizer, tmp_path):
    path = write_gguf(tmp_path / "t.gguf", original, tokenizer, gguf.GGMLQuantizationType.F32, architecture="rwkv7")
    refusal = refusal_of(path)
    assert refusal.where == f"model ({path})"
    assert "rwkv7" in refusal.found
    assert "gemma3, " in refusal.allowed
    assert "model.source hub or local" in refusal.remedy


def test_a_file_that_is_missing_of_another_kind_or_cut_short_is_refused(path, tmp_path):
    assert refusal_of(tmp_path / "nowhere.gguf").found.endswith("which is no file")
    (tmp_path / "weights.gguf").write_bytes(b"safetensors")
    assert refusal_of(tmp_path / "weights.gguf").found.endswith("which does not start with GGUF")
    path.write_bytes(path.read_bytes()[:200])
    assert refusal_of(path).where == f"model ({path})"


def test_a_file_whose_tensors_are_cut_short_is_refused_when_it_is_loaded(path):
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(Refusal, match="cannot be loaded"):
        load_model(policy_of(path), CPU)


def test_without_the_gguf_package_the_remedy_is_the_extra(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    refusal = refusal_of(path)
    assert (refusal.where, refusal.remedy) == ("model.source", "pip install 'posttrain[gguf]'")


def test_bad_rows_are_refused_before_the_file_is_converted(tmp_path):
    """The file could not be converted at all."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF and no more")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "p", "chosen": "same", "rejected": "same"}\n')
    document = {"name": "r", "model": {"source": "gguf", "path": str(tmp_path / "model.gguf")},
                "data": {"preferences": str(tmp_path / "pairs.jsonl")}, "alignment": {"algorithm": "dpo"}}  # fmt: skip
    with pytest.raises(Refusal, match=r"data\.preferences"):
        preflight(Chain(validate_recipe(document, "recipe"), Store(tmp_path / "store")))
    assert not (tmp_path / "store/cache/gguf").exists()
