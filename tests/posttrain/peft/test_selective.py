"""BitFit and last layers: which weights they find, and the checkpoints that they leave."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from posttrain.checkpoints.load import merge_adapter
from posttrain.models.policy import Policy
from posttrain.peft.wrap import save_trained, trainable_state, wrap
from schemas.errors import Refusal

LLAMA_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def test_a_llama_without_biases_is_given_zeros_where_its_config_has_flags(spec, tiny, logits):
    """Four linear layers of attention and three of the feed-forward layer in each of two blocks."""
    model = wrap(tiny("llama"), spec("bitfit"), 0, "sft.peft")
    found = trainable_state(model)
    assert {name.split(".")[-2] for name in found} == set(LLAMA_LINEAR)
    assert len(found) == 14
    assert all(p.abs().max() == 0 for p in found.values())
    assert (model.config.attention_bias, model.config.mlp_bias) == (True, True)
    assert torch.equal(logits(model), logits(tiny("llama")))


def test_a_model_with_biases_trains_all_of_them_and_gets_no_others(spec, tiny):
    model = wrap(tiny("gpt2"), spec("bitfit"), 0, "sft.peft")
    assert set(trainable_state(model)) == {name for name, _ in tiny("gpt2").named_parameters() if name.endswith(".bias")}
    assert any("ln_f" in name for name in trainable_state(model)), "those of the norms belong to them"


def test_a_model_with_some_biases_trains_these(spec):
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97}
    model = wrap(Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=1, **shape)), spec("bitfit"), 0, "sft.peft")
    assert {name.split(".")[-2] for name in trainable_state(model)} == {"q_proj", "k_proj", "v_proj"}


@pytest.mark.parametrize(("kind", "changes", "remedy"), [("t5", {}, "ln_tuning"), ("llama", {"graft": False}, "graft=true")])
def test_a_model_whose_biases_would_be_none_is_refused(spec, tiny, kind, changes, remedy):
    model = tiny(kind)
    with pytest.raises(Refusal, match="has no bias") as refused:
        wrap(model, spec("bitfit", **changes), 0, "alignment.peft")
    assert refused.value.where == "alignment.peft.method"
    assert remedy in refused.value.remedy


def test_the_merged_bitfit_model_is_a_checkpoint_that_transformers_loads(spec, tiny, train, logits, tmp_path):
    model = wrap(tiny("llama"), spec("bitfit"), 0, "sft.peft")
    train(model)
    save_trained(model, None, spec("bitfit"), Policy(""), tmp_path)
    merge_adapter(tiny("llama"), tmp_path / "adapter").save_pretrained(tmp_path / "checkpoint")
    reloaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(logits(reloaded), logits(model))


def test_blocks_are_counted_and_not_matched_by_the_end_of_their_name(spec, tiny):
    """Of twelve blocks the last two are 10 and 11; `.1` ends the names of 1 and 11."""
    model = wrap(tiny("llama", num_hidden_layers=12), spec("last_layers", layers=2), 0, "sft.peft")
    assert {name.split(".")[2] for name in trainable_state(model) if ".layers." in name} == {"10", "11"}
    assert "model.norm.weight" in trainable_state(model)
    assert not any("embed" in name or "lm_head" in name for name in trainable_state(model))


def test_the_last_layers_of_an_encoder_decoder_are_the_decoders(spec, tiny):
    model = wrap(tiny("t5"), spec("last_layers", layers=1), 0, "sft.peft")
    assert {".".join(name.split(".")[:3]) for name in trainable_state(model)} == {
        "decoder.block.1",
        "decoder.final_layer_norm.weight",
    }


def test_an_encoder_that_normalises_in_its_blocks_has_no_norm_after_them(spec):
    bert = BertModel(BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=97))
    model = wrap(bert, spec("last_layers", layers=1), 0, "sft.peft")
    assert {name.split(".")[2] for name in trainable_state(model)} == {"1"}
    with pytest.raises(Refusal, match="no output head"):
        wrap(bert, spec("last_layers head"), 0, "sft.peft")


def test_the_norm_before_the_blocks_of_bart_is_not_taken_for_one_after_them(spec):
    shape = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    bart = BartForConditionalGeneration(BartConfig(vocab_size=97, d_model=16, **shape, **heads))
    model = wrap(bart, spec("last_layers", layers=1), 0, "sft.peft")
    assert {".".join(name.split(".")[:4]) for name in trainable_state(model)} == {"model.decoder.layers.1"}


def test_more_blocks_than_there_are_is_refused(spec, tiny):
    with pytest.raises(Refusal) as refused:
        wrap(tiny("llama"), spec("last_layers", layers=3), 0, "sft.peft")
    assert (refused.value.where, refused.value.found) == ("sft.peft.layers", "3")
    assert "at most 2" in refused.value.allowed


@pytest.mark.parametrize(
    ("kind", "auto"), [("llama", AutoModelForCausalLM), ("gpt2", AutoModelForCausalLM), ("t5", AutoModelForSeq2SeqLM)]
)
def test_a_tied_head_gets_its_own_matrix_and_the_embedding_stays(spec, tiny, train, logits, tmp_path, kind, auto):
    model = tiny(kind)
    before, embedding = logits(model), model.get_input_embeddings().weight.detach().clone()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    wrap(model, spec("last_layers head"), 0, "sft.peft")
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    assert "lm_head.weight" in trainable_state(model)
    train(model)
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    assert not torch.equal(model.lm_head.weight, embedding)
    save_trained(model, None, spec("last_layers head"), Policy(""), tmp_path)
    merge_adapter(tiny(kind), tmp_path / "adapter").save_pretrained(tmp_path / "checkpoint")
    reloaded = auto.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    torch.testing.assert_close(logits(reloaded.eval()), logits(model), atol=1e-5, rtol=1e-5)
    assert torch.equal(reloaded.get_input_embeddings().weight, embedding)


def test_a_head_of_its_own_stays_as_it_is(spec, tiny):
    model = tiny("llama", tie_word_embeddings=False)
    head = model.lm_head.weight
    wrap(model, spec("last_layers head"), 0, "sft.peft")
    assert model.lm_head.weight is head
