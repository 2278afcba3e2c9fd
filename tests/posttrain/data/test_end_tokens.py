"""At which tokens a saved model stops: those of the tokenizer, of the template, and of the checkpoint's own config."""

from __future__ import annotations

import pytest

from posttrain.data.end_tokens import end_tokens, set_end_tokens

TURNS = "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] | trim }}%s{%% endfor %%}"


@pytest.fixture
def with_turns(tokenizer):
    """Gives the tokenizer two special tokens of turns, and a template that ends each turn with a text."""
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|end|>"]})

    def build(end: str):
        tokenizer.chat_template = TURNS.replace("%s", end).replace("%%", "%")
        return tokenizer

    return build


@pytest.mark.parametrize(
    ("end", "names"),
    [
        ("<|end|>\n", ["<|endoftext|>", "<|end|>"]),
        (" <|end|><|start|>", ["<|endoftext|>", "<|end|>"]),
        ("<|endoftext|>", ["<|endoftext|>"]),
        ("\n\n", ["<|endoftext|>"]),
        ("", ["<|endoftext|>"]),
        (" END", ["<|endoftext|>"]),
    ],
)
def test_the_first_special_token_after_an_answer_ends_it(with_turns, end, names):
    tokenizer = with_turns(end)
    assert tokenizer.convert_ids_to_tokens(end_tokens(tokenizer)) == names


def test_the_default_template_ends_with_eos(tokenizer):
    assert end_tokens(tokenizer) == [0]


@pytest.mark.parametrize(("own", "kept"), [(0, []), ([7, 0], [7]), (None, [])])
def test_what_the_checkpoint_stopped_at_stays(with_turns, tiny_llama, own, kept):
    tokenizer, model = with_turns("<|end|>\n"), tiny_llama(320)
    habits = model.generation_config
    habits.eos_token_id, habits.pad_token_id = own, None
    set_end_tokens(model, tokenizer)
    assert habits.eos_token_id == [0, tokenizer.convert_tokens_to_ids("<|end|>"), *kept]
    assert habits.pad_token_id == tokenizer.pad_token_id


def test_one_token_stays_a_number(tokenizer, tiny_llama):
    model = tiny_llama(320)
    set_end_tokens(model, tokenizer)
    assert model.generation_config.eos_token_id == 0
