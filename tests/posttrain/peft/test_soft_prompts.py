"""Soft prompts: the forward pass by hand, padding on either side, and first values."""

from __future__ import annotations

import copy

import pytest
import torch
from tokenizers.normalizers import Replace

from posttrain.peft.soft_prompts import generate, padded_logits, prompted, virtual_tokens
from posttrain.peft.wrap import wrap
from schemas.errors import Refusal

KINDS = ["prompt_tuning", "prefix_tuning random", "prefix_tuning projected", "p_tuning"]
LONG = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
SHORT = torch.tensor([[20, 21, 22, 23]])
DECODER = torch.tensor([[1, 40, 41]])


@pytest.fixture(params=KINDS)
def prompt_model(request, spec, tiny):
    """Builds a tiny model of a kind with a soft prompt of the method."""
    return lambda kind: wrap(tiny(kind), spec(request.param), 0, "sft.peft").eval()


def ones(ids: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(ids)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_at_the_input_of_a_decoder_it_is_a_concatenation_of_embeddings(spec, tiny, kind):
    """Rows of 3 virtual tokens and 7 tokens through the plain model; the logits of the last 7 positions are ours."""
    model, plain = wrap(tiny(kind), spec("prompt_tuning", virtual_tokens=3), 0, "sft.peft").eval(), tiny(kind)
    prompt = model.prompt_encoder["default"].embedding.weight
    together = torch.cat([prompt, plain.get_input_embeddings()(LONG[0])])[None]
    expected = plain(inputs_embeds=together).logits[:, 3:]
    torch.testing.assert_close(padded_logits(model, LONG, ones(LONG)), expected, atol=1e-5, rtol=1e-5)
    assert padded_logits(model, LONG, ones(LONG)).shape == (1, 7, 97)


@torch.no_grad()
def test_a_prompt_of_token_embeddings_is_a_prompt_of_tokens(tiny, tokenizer, spec):
    """Initialised from a text, the soft prompt computes what the text before the input computes."""
    ids = tokenizer("The hotel", add_special_tokens=False)["input_ids"]
    model = tiny("llama", vocabulary=len(tokenizer))
    expected = model(input_ids=torch.cat([torch.tensor([ids]), SHORT], 1)).logits[:, len(ids) :]
    chosen = spec("prompt_tuning", virtual_tokens=len(ids), init="text", text="The hotel")
    wrapped = wrap(model, chosen, 0, "sft.peft", tokenizer).eval()
    torch.testing.assert_close(padded_logits(wrapped, SHORT, ones(SHORT)), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_text_is_repeated_or_cut_to_the_length_of_the_prompt(tiny, tokenizer, spec):
    ids = tokenizer("The hotel was clean", add_special_tokens=False)["input_ids"]
    for length in (2, 2 * len(ids) + 1):
        chosen = spec("prompt_tuning", virtual_tokens=length, init="text", text="The hotel was clean")
        model = wrap(tiny("llama", vocabulary=len(tokenizer)), chosen, 0, "sft.peft", tokenizer)
        wanted = model.get_base_model().get_input_embeddings()(torch.tensor((ids * 3)[:length]))
        assert torch.equal(model.prompt_encoder["default"].embedding.weight, wanted)


def test_a_text_without_tokens_is_refused(tiny, tokenizer, spec):
    """Tokenizers that normalise drop some characters: here the space of no width."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.normalizer = Replace("\u200b", "")
    with pytest.raises(Refusal, match="no token") as refused:
        wrap(tiny("llama"), spec("prompt_tuning", init="text", text="\u200b"), 0, "sft.peft", tokenizer)
    assert refused.value.where == "sft.peft.text"


@torch.no_grad()
def test_a_prefix_of_real_keys_and_values_is_a_prefix_of_tokens(tiny, spec):
    """The keys and values that three tokens leave in the cache of a Llama with grouped queries, put into the prefix: the same
    logits as with these tokens before the input. 2 layers, 2 key-value heads of 8 numbers: a prefix of [3, 2 · 2 · 16]."""
    model = wrap(tiny("llama"), spec("prefix_tuning", virtual_tokens=3), 0, "sft.peft").eval()
    plain, front = tiny("llama"), torch.tensor([[60, 61, 62]])
    cache = plain(input_ids=front, use_cache=True).past_key_values
    rows = [part.transpose(1, 2).reshape(3, 16) for layer in cache.layers for part in (layer.keys, layer.values)]
    weight = model.prompt_encoder["default"].embedding.weight
    assert weight.shape == (3, 64)
    weight.copy_(torch.cat(rows, 1))
    expected = plain(input_ids=torch.cat([front, LONG], 1)).logits[:, 3:]
    torch.testing.assert_close(padded_logits(model, LONG, ones(LONG)), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_at_the_input_of_an_encoder_it_is_a_concatenation_of_embeddings(spec, tiny):
    model, plain = wrap(tiny("t5"), spec("prompt_tuning", virtual_tokens=3), 0, "sft.peft").eval(), tiny("t5")
    together = torch.cat([model.prompt_encoder["default"].embedding.weight, plain.shared(LONG[0])])[None]
    expected = plain(inputs_embeds=together, decoder_input_ids=DECODER).logits
    assert torch.equal(padded_logits(model, LONG, ones(LONG), DECODER), expected)


@torch.no_grad()
def test_a_prefix_of_real_keys_and_values_in_a_decoder_with_an_encoder(spec, tiny):
    """As above; T5's heads are 4 wide, not 32 / 4, and it has 2 decoder layers beside 3 encoder layers. Every second pair of keys
    and values, [2, 16] each, would be for cross-attention and has no use."""
    model = wrap(tiny("t5"), spec("prefix_tuning", virtual_tokens=2), 0, "sft.peft").eval()
    plain, front = tiny("t5"), torch.tensor([[1, 50]])
    cache = plain(input_ids=LONG, decoder_input_ids=front, use_cache=True).past_key_values.self_attention_cache
    unused = torch.ones(1, 4, 2, 4)
    rows = [part.transpose(1, 2).reshape(2, 16) for layer in cache.layers
            for part in (layer.keys, layer.values, unused, unused)]  # fmt: skip
    model.prompt_encoder["default"].embedding.weight.copy_(torch.cat(rows, 1))
    after = torch.tensor([[40, 41, 42]])
    expected = plain(input_ids=LONG, decoder_input_ids=torch.cat([front, after], 1)).logits[:, 2:]
    torch.testing.assert_close(padded_logits(model, LONG, ones(LONG), after), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_padding_changes_nothing(prompt_model, kind):
    model = prompt_model(kind)
    ids = torch.cat([LONG, torch.nn.functional.pad(SHORT, (0, 3))])
    attended = torch.cat([ones(LONG), torch.nn.functional.pad(ones(SHORT), (0, 3))])
    decoder = DECODER if kind == "t5" else None
    together = padded_logits(model, ids, attended, None if decoder is None else decoder.repeat(2, 1))
    for row, alone in enumerate((LONG, SHORT)):
        expected = padded_logits(model, alone, ones(alone), decoder)[0]
        torch.testing.assert_close(together[row, : len(expected)], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_of_an_encoders_input_does_not_come_between_prompt_and_tokens(prompt_model):
    """T5's attention counts the positions between two tokens, padding included."""
    model = prompt_model("t5")
    ids, attended = torch.nn.functional.pad(SHORT, (3, 0)), torch.nn.functional.pad(ones(SHORT), (3, 0))
    expected = padded_logits(model, SHORT, ones(SHORT), DECODER)
    torch.testing.assert_close(padded_logits(model, ids, attended, DECODER), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_of_the_decoder_changes_nothing(prompt_model):
    model = prompt_model("t5")
    longer = torch.tensor([[1, 40, 41, 0, 0]])
    attended = torch.tensor([[1, 1, 1, 0, 0]])
    expected = padded_logits(model, LONG, ones(LONG), DECODER)
    torch.testing.assert_close(padded_logits(model, LONG, ones(LONG), longer, attended)[:, :3], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_rows_padded_on_the_left_generate_what_they_generate_alone(prompt_model, kind):
    model = prompt_model(kind)
    model.get_base_model().generation_config.eos_token_id = None
    ids = torch.cat([LONG, torch.nn.functional.pad(SHORT, (3, 0), value=1)])
    attended = torch.cat([ones(LONG), torch.nn.functional.pad(ones(SHORT), (3, 0))])
    options = {"max_new_tokens": 5, "do_sample": False}
    together = generate(model, ids, attended, **options)[:, -5:]
    for row, alone in enumerate((LONG, SHORT)):
        assert torch.equal(together[row], generate(model, alone, ones(alone), **options)[0, -5:])
    expected_front = torch.ones(2, 1) if kind == "t5" else ids
    assert torch.equal(generate(model, ids, attended, **options)[:, :-5], expected_front.long())


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_model_without_a_soft_prompt_is_scored_and_generates_as_it_does_itself(tiny, kind):
    model = tiny(kind)
    model.generation_config.eos_token_id = None
    decoder = {"decoder_input_ids": DECODER} if kind == "t5" else {}
    expected = model(input_ids=LONG, attention_mask=ones(LONG), **decoder).logits
    assert torch.equal(padded_logits(model, LONG, ones(LONG), *decoder.values()), expected)
    own = model.generate(LONG, attention_mask=ones(LONG), max_new_tokens=3, do_sample=False)
    assert torch.equal(generate(model, LONG, ones(LONG), max_new_tokens=3, do_sample=False), own)
    assert virtual_tokens(model) == 0


@pytest.mark.parametrize("name", ["prompt_tuning", "prefix_tuning", "p_tuning", "p_tuning lstm"])
def test_every_virtual_token_gets_a_gradient(tiny, spec, name):
    for kind in ("llama", "t5"):
        model = wrap(tiny(kind), spec(name), 0, "sft.peft")
        padded_logits(model, LONG, ones(LONG), *([DECODER] if kind == "t5" else [])).square().sum().backward()
        embedding = model.prompt_encoder["default"].embedding.weight
        assert (embedding.grad.abs().sum(1) > 0).all()


def test_what_a_scorer_needs_to_know(prompt_model):
    """The arguments for the model's body, and how many leading positions of its output to leave out."""
    for kind, at_input in (("llama", 3), ("t5", 0)):
        model = prompt_model(kind)
        at = prompted(model, LONG, ones(LONG), ones(DECODER) if kind == "t5" else None)
        length = virtual_tokens(model)
        assert length in (3, 5)
        prefix = "past_key_values" in {**at.inputs, **at.decoder}
        assert at.skip == (0 if prefix or not at_input else length)
        if kind == "llama":
            hidden = model.get_base_model().base_model(**at.inputs).last_hidden_state[:, at.skip :]
            logits = model.get_base_model().lm_head(hidden)
            torch.testing.assert_close(logits, padded_logits(model, LONG, ones(LONG)), atol=1e-6, rtol=1e-5)


def test_random_embeddings_have_the_size_of_the_models_own(tiny, spec):
    model = wrap(tiny("llama"), spec("prompt_tuning random", virtual_tokens=500), 0, "sft.peft")
    own = model.get_base_model().get_input_embeddings().weight.detach().std()
    assert model.prompt_encoder["default"].embedding.weight.detach().std() == pytest.approx(float(own), rel=0.05)


def test_a_prefix_of_zeros_draws_attention_and_adds_nothing(tiny, spec):
    model = wrap(tiny("llama"), spec("prefix_tuning"), 0, "sft.peft")
    assert model.prompt_encoder["default"].embedding.weight.abs().max() == 0
    projected = wrap(tiny("llama"), spec("prefix_tuning projected"), 0, "sft.peft")
    assert projected.get_prompt(1).layers[0].keys.abs().max() == 0


def test_a_soft_prompt_needs_a_model_that_generates(spec):
    from transformers import BertConfig, BertModel

    bert = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=97))
    with pytest.raises(Refusal, match="encoder"):
        wrap(bert, spec("prompt_tuning"), 0, "sft.peft")
