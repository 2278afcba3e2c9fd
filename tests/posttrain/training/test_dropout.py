"""Dropout of real families: off for good, or at a rate of the recipe's."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    GPT2Config,
    MixtralConfig,
    OPTConfig,
    PhiConfig,
    ProphetNetConfig,
    T5Config,
)

from posttrain.peft.wrap import wrap
from posttrain.training.dropout import set_dropout, without_dropout

WIDE = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 97}
STACKS = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 97}
BART_RATES = dict.fromkeys(
    ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop"), 0.2
)  # fmt: skip
CONFIGS = {
    "gpt2": GPT2Config(n_embd=16, n_head=2, n_layer=2, vocab_size=97),
    "opt": OPTConfig(ffn_dim=16, word_embed_proj_dim=16, dropout=0.2, attention_dropout=0.2, layerdrop=0.2, **WIDE),
    "phi": PhiConfig(intermediate_size=32, resid_pdrop=0.2, embd_pdrop=0.2, attention_dropout=0.2, **WIDE),
    "t5": T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=97, dropout_rate=0.2),
    "bart": BartConfig(d_model=16, encoder_attention_heads=2, decoder_attention_heads=2, **STACKS, **BART_RATES),
    "prophetnet": ProphetNetConfig(hidden_size=16, num_encoder_layers=1, num_decoder_layers=1, num_encoder_attention_heads=2,
                                   num_decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=97,
                                   dropout=0.2),
    "bert": BertConfig(intermediate_size=32, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2, **WIDE),
    "mixtral": MixtralConfig(intermediate_size=32, num_key_value_heads=1, num_local_experts=4, router_jitter_noise=0.2,
                             attention_dropout=0.2, **WIDE),
}  # fmt: skip


@pytest.fixture(params=CONFIGS)
def model(request):
    """A family's model in training mode, which drops."""
    torch.manual_seed(0)
    config = CONFIGS[request.param]
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return (AutoModelForSequenceClassification if request.param == "bert" else kind).from_config(config).train()


@torch.no_grad()
def logits(model) -> torch.Tensor:
    ids = torch.arange(2, 22)[None]
    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    return model(input_ids=ids, **decoder).logits


def test_without_dropout_a_model_computes_in_training_what_it_computes_in_evaluation(model):
    evaluated = logits(model.eval())
    assert not torch.allclose(logits(model.train()), evaluated, atol=1e-5)
    saved = model.config.to_json_string()
    without_dropout(model)
    torch.testing.assert_close(logits(model.train()), evaluated, atol=1e-6, rtol=1e-6)
    assert model.config.to_json_string() == saved


def test_a_rate_takes_the_place_of_the_checkpoints_own_and_none_leaves_it(model):
    """A model that dropped nothing drops again."""
    without_dropout(model)
    still = logits(model)
    set_dropout(model, None)
    assert torch.equal(logits(model), still)
    set_dropout(model, 0.5)
    assert not torch.allclose(logits(model), still, atol=1e-3)


def test_the_dropout_of_an_adapter_is_its_own(tiny_llama, lora):
    """The base's is switched off before the adapter is put on it."""
    base = tiny_llama(attention_dropout=0.3)
    without_dropout(base)
    model = wrap(base, lora(dropout=0.25), 0, "alignment.peft")
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.25}
