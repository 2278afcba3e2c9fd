"""The tokenizer from scratch, and what a tokenizer is given that lacks it."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from posttrain.data.tokenizer import (
    DEFAULT_CHAT_TEMPLATE,
    EOS,
    PAD,
    added_tokens,
    prepare_tokenizer,
    train_tokenizer,
    writes_bos,
)
from schemas.errors import Refusal

TEXTS = ["The hotel was clean and the staff was kind."] * 5
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": " Hello\n"},
]


def test_special_tokens_come_first_and_the_vocabulary_keeps_its_limit():
    tokenizer = train_tokenizer(TEXTS, 300)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    assert (tokenizer.eos_token, tokenizer.pad_token) == (EOS, PAD)
    assert 258 <= len(tokenizer) <= 300


def test_any_text_survives_encoding_even_what_was_never_seen():
    tokenizer = train_tokenizer(TEXTS, 300)
    for text in ("The hotel", "  two  blanks \n\n", "naïve 日本語 🙂", "\ttabs\x00"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_frequent_words_become_one_token():
    tokenizer = train_tokenizer(TEXTS, 300)
    assert len(tokenizer(" hotel")["input_ids"]) == 1
    assert len(tokenizer(" zebra")["input_ids"]) > 1


def test_the_same_texts_give_the_same_tokenizer():
    first, second = train_tokenizer(TEXTS, 300), train_tokenizer(iter(TEXTS), 300)
    assert first.get_vocab() == second.get_vocab()
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_a_saved_tokenizer_comes_back_the_same(tmp_path):
    tokenizer = prepare_tokenizer(train_tokenizer(TEXTS, 300))
    tokenizer.save_pretrained(tmp_path)
    back = AutoTokenizer.from_pretrained(tmp_path)
    text = "User:\nThe hotel was naïve<|endoftext|>"
    assert back(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert back.chat_template == DEFAULT_CHAT_TEMPLATE
    assert (back.eos_token_id, back.pad_token_id) == (0, 1)


def test_the_default_template_by_hand(tokenizer):
    """Content is kept to the character, blanks and line breaks at its ends included; EOS follows assistant turns only."""
    whole = tokenizer.apply_chat_template(TALK, tokenize=False)
    assert whole == "System:\nBe kind.\n\nUser:\nHi\n\nAssistant:\n Hello\n<|endoftext|>"
    prompt = tokenizer.apply_chat_template(TALK[:2], tokenize=False, add_generation_prompt=True)
    assert prompt == "System:\nBe kind.\n\nUser:\nHi\n\nAssistant:\n"
    assert whole.startswith(prompt)


def test_the_default_template_writes_a_bos_token_where_there_is_one(tokenizer):
    tokenizer.bos_token = PAD
    assert tokenizer.apply_chat_template(TALK[1:2], tokenize=False) == f"{PAD}User:\nHi"


def test_a_tokenizer_without_eos_is_refused():
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.eos_token = None
    with pytest.raises(Refusal, match="without an EOS token") as refused:
        prepare_tokenizer(tokenizer)
    assert refused.value.where == "model"


def test_padding_falls_back_to_eos_and_what_is_there_is_kept():
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.pad_token, tokenizer.chat_template = None, "mine"
    prepare_tokenizer(tokenizer)
    assert (tokenizer.pad_token_id, tokenizer.chat_template) == (0, "mine")
    other = prepare_tokenizer(train_tokenizer(TEXTS, 300))
    assert (other.pad_token, other.chat_template) == (PAD, DEFAULT_CHAT_TEMPLATE)


# Without BOS, as a template is that leaves BOS to the tokenizer.
PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.mark.parametrize("template", [None, PLAIN, "{{ bos_token }}" + PLAIN])
def test_a_chat_starts_with_one_bos_where_the_tokenizer_starts_texts_with_it(with_bos, template, tmp_path):
    """Whoever wrote it: the default template, the tokenizer's own, or this project; also in what is saved and loaded."""
    with_bos.chat_template = template
    prepare_tokenizer(prepare_tokenizer(with_bos)).save_pretrained(tmp_path)
    for tokenizer in (with_bos, AutoTokenizer.from_pretrained(tmp_path)):
        text = tokenizer.apply_chat_template(TALK, tokenize=False)
        assert text.startswith("<|bos|>")
        assert text.count("<|bos|>") == 1
        assert writes_bos(tokenizer)
        assert tokenizer.apply_chat_template(TALK, tokenize=True, return_dict=False).count(tokenizer.bos_token_id) == 1


def test_a_template_without_bos_is_kept_where_the_tokenizer_adds_none(tokenizer):
    """Qwen's, say: a BOS token may be defined and yet belong before no text."""
    tokenizer.bos_token, tokenizer.chat_template = PAD, PLAIN
    assert prepare_tokenizer(tokenizer).chat_template == PLAIN
    assert not writes_bos(tokenizer)


def test_what_a_tokenizer_adds_to_a_text_is_seen_from_what_it_does(with_bos, t5_tokenizer):
    assert added_tokens(t5_tokenizer) == ([], [1])
    assert added_tokens(with_bos) == ([with_bos.bos_token_id], [])
    assert added_tokens(prepare_tokenizer(train_tokenizer(TEXTS, 300))) == ([], [])


@pytest.mark.parametrize("template", [None, PLAIN, "{{ bos_token }}" + PLAIN])
def test_every_route_that_is_meant_for_chats_gives_one_bos(with_bos, template):
    """And a plain text has one too, though a call on a rendered chat then gives two, as with Llama 3 and Gemma."""
    with_bos.chat_template = template
    tokenizer, bos = prepare_tokenizer(with_bos), with_bos.bos_token_id
    rendered = tokenizer.apply_chat_template(TALK, tokenize=False)
    routes = {
        "template": tokenizer.apply_chat_template(TALK, tokenize=True, return_dict=False),
        "rendered": tokenizer(rendered, add_special_tokens=False)["input_ids"],
        "plain text": tokenizer("Hi")["input_ids"],
    }
    assert {name: ids.count(bos) for name, ids in routes.items()} == dict.fromkeys(routes, 1)
    assert {ids[0] for ids in routes.values()} == {bos}
    assert tokenizer(rendered)["input_ids"][:2] == [bos, bos]


def test_a_given_template_takes_the_place_of_the_own_one_and_gets_bos_as_well(with_bos, tmp_path):
    with_bos.chat_template = "mine"
    prepare_tokenizer(with_bos, PLAIN).save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text("utf-8") == "{{ bos_token }}" + PLAIN


def test_of_several_templates_the_default_one_is_used_and_the_others_are_kept(with_bos, tmp_path):
    with_bos.chat_template = {"default": PLAIN, "tool_use": "other"}
    prepare_tokenizer(with_bos).save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == {"default": "{{ bos_token }}" + PLAIN, "tool_use": "other"}


def test_a_template_that_insists_on_a_system_message_is_no_broken_one(with_bos):
    with_bos.chat_template = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no') }}{% endif %}" + PLAIN
    assert writes_bos(prepare_tokenizer(with_bos))


def test_a_template_that_cannot_be_rendered_is_refused_with_its_line(with_bos):
    with_bos.chat_template = "a\n{{ messages[7]['role'] }}"
    with pytest.raises(Refusal, match="fails at line 2") as refused:
        prepare_tokenizer(with_bos)
    assert refused.value.where == "model.chat_template"
