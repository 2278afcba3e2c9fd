"""A checkpoint with fewer embeddings than its tokenizer has tokens becomes a folder with one for each."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, MarianConfig, PhiConfig, T5Config

from posttrain.checkpoints.load import load_config, load_model, load_tokenizer
from posttrain.checkpoints.resized import resized
from posttrain.models.policy import Policy
from posttrain.models.vocabulary import unknown_tokens
from schemas.errors import Refusal

NEW = ["<|im_start|>", "<|im_end|>"]
SMALL = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "pad_token_id": 1, "eos_token_id": 0, "decoder_start_token_id": 1,
    "share_encoder_decoder_embeddings": False, "tie_word_embeddings": False, "max_position_embeddings": 16,
}  # fmt: skip


@pytest.fixture
def old(tokenizer) -> int:
    """Embeddings that the models have: one for each token of the tokenizer as it was."""
    return len(tokenizer)


@pytest.fixture
def lacking(old, tokenizer, tmp_path):
    """Builds a policy from a model; its tokenizer gets two tokens more than it has embeddings."""

    def build(model) -> Policy:
        tokenizer.add_special_tokens({"additional_special_tokens": NEW})
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return Policy(str(tmp_path / "model"))

    return build


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_new_rows_are_the_mean_of_the_old_in_the_precision_of_the_checkpoint(tied, dtype, old, lacking, tiny_llama, tmp_path):
    model = tiny_llama(old, tie_word_embeddings=tied).to(dtype)
    found = resized(lacking(model), "digest", tmp_path / "cache")
    assert found.new_tokens == (old, old + 1)
    new = AutoModelForCausalLM.from_pretrained(found.base, dtype="auto")
    assert (new.dtype, new.config.vocab_size) == (dtype, old + 2)
    for before, after in zip(tables(model), tables(new), strict=True):
        assert torch.equal(after[:old], before)
        mean = before.double().mean(0).expand(2, -1)
        assert torch.allclose(after[old:].double(), mean, atol=1e-7, rtol=torch.finfo(dtype).eps)
    assert (new.get_output_embeddings().weight is new.get_input_embeddings().weight) == tied
    assert not unknown_tokens(load_tokenizer(found), load_config(found))


def tables(model) -> list[torch.Tensor]:
    """The matrices [tokens, width] of input and output."""
    return [layer.weight.detach() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]


def test_the_bias_of_a_head_is_the_mean_too(old, lacking, tmp_path):
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(PhiConfig(vocab_size=old, bos_token_id=None, eos_token_id=0, **shape))
    torch.nn.init.normal_(model.lm_head.bias)
    head = load_model(resized(lacking(model), "digest", tmp_path / "cache"), torch.device("cpu")).lm_head
    assert torch.allclose(head.bias[old:], model.lm_head.bias.mean().expand(2))


def test_an_encoder_decoder_with_one_vocabulary_is_resized_on_both_sides(old, lacking, tmp_path):
    shape = {
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 32,
        "num_layers": 1,
        "num_heads": 2,
        "decoder_start_token_id": 1,
        "pad_token_id": 1,
    }
    found = resized(lacking(AutoModelForSeq2SeqLM.from_config(T5Config(vocab_size=old, **shape))), "digest", tmp_path / "cache")
    model = load_model(found, torch.device("cpu"))
    assert [len(part.get_input_embeddings().weight) for part in (model.encoder, model.decoder)] == [old + 2, old + 2]


def test_two_vocabularies_are_refused(old, lacking, tmp_path):
    config = MarianConfig(vocab_size=old, decoder_vocab_size=old, **SMALL)
    policy = lacking(AutoModelForSeq2SeqLM.from_config(config))
    with pytest.raises(Refusal, match=r"model\.resize_embeddings: found true, and marian, whose encoder and decoder"):
        resized(policy, "digest", tmp_path / "cache")


def test_a_model_with_an_embedding_for_every_token_is_left_as_it_is(checkpoint, tmp_path):
    policy = Policy(str(checkpoint))
    assert resized(policy, "digest", tmp_path / "cache") is policy
    assert not (tmp_path / "cache").exists()


def test_the_folder_is_made_once_and_again_when_it_was_changed(old, lacking, tiny_llama, tmp_path):
    policy = lacking(tiny_llama(old))
    first = resized(policy, "digest", tmp_path / "cache")
    weights = next(tmp_path.glob("cache/*/*.safetensors"))
    made = weights.stat().st_mtime_ns
    assert resized(policy, "digest", tmp_path / "cache") == first
    assert weights.stat().st_mtime_ns == made
    weights.write_bytes(weights.read_bytes()[:-4] + b"gone")
    assert resized(policy, "digest", tmp_path / "cache") == first
    assert not weights.read_bytes().endswith(b"gone")
    assert resized(policy, "other content", tmp_path / "cache").base != first.base


def test_adapters_belong_to_the_vocabulary_as_it_was(old, lacking, tiny_llama, tmp_path):
    policy = replace(lacking(tiny_llama(old)), adapters=(shutil.copytree(tmp_path / "model", tmp_path / "adapter"),))
    with pytest.raises(Refusal, match="found true, and adapters on the checkpoint"):
        resized(policy, "digest", tmp_path / "cache")
