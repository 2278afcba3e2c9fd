"""From rows to tokens: boundary, EOS, truncation, refusals."""

from __future__ import annotations

import polars as pl
import pytest

from posttrain.data.encode import accepted, encode_conversations, encode_prompts
from schemas.errors import Refusal

EOS = 0


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def instructions(*rows: tuple[str, str]) -> pl.DataFrame:
    return pl.DataFrame({"prompt": [user(p) for p, _ in rows], "completion": [assistant(c) for _, c in rows]})


def pairs(*rows: tuple[str, str, str]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "prompt": [user(p) for p, _, _ in rows],
            "chosen": [assistant(c) for _, c, _ in rows],
            "rejected": [assistant(r) for _, _, r in rows],
        }
    )


def encode(table, tokenizer, max_length=200, **changes):
    encoded = encode_conversations(table, tokenizer, max_length, "data.preferences", **changes)
    assert len(encoded.examples) + len(encoded.left_out) == table.height
    return encoded


def test_the_prompt_ends_and_the_completion_starts_where_the_default_template_says(tokenizer):
    (example,) = encode(instructions(("Write a review.", "It was clean.")), tokenizer).examples
    assert tokenizer.decode(example.prompt) == "User:\nWrite a review.\n\nAssistant:\n"
    (completion,) = example.branches
    assert tokenizer.decode(completion) == "It was clean.<|endoftext|>"
    assert (example.prompt.dtype, completion.dtype) == ("int32", "int32")


def test_a_conversation_of_several_turns_is_prompt_up_to_the_last_answer(tokenizer):
    table = pl.DataFrame({"prompt": [user("Hi") + assistant("Hello") + user("Bye")], "completion": [assistant("Goodbye")]})
    (example,) = encode(table, tokenizer).examples
    assert tokenizer.decode(example.prompt) == "User:\nHi\n\nAssistant:\nHello<|endoftext|>\n\nUser:\nBye\n\nAssistant:\n"
    assert tokenizer.decode(example.branches[0]) == "Goodbye<|endoftext|>"


def test_a_pair_shares_its_prompt_and_keeps_chosen_before_rejected(tokenizer):
    (example,) = encode(pairs(("Rate it.", "Good", "Bad")), tokenizer).examples
    assert [tokenizer.decode(branch) for branch in example.branches] == ["Good<|endoftext|>", "Bad<|endoftext|>"]


# Starts an answer on a line of its own and writes `ending` after it.
LINES = (
    "{% for m in messages %}{{ m['role'] }}:\n{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}ENDING{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)


@pytest.mark.parametrize("ending", ["{{ eos_token }}", "", "{{ eos_token }}\n", "{{ eos_token }} \n\n"])
def test_a_completion_ends_with_one_eos_whatever_the_template_writes_after_it(tokenizer, ending):
    """Blanks after EOS are never sampled, so they are not trained on."""
    tokenizer.chat_template = LINES.replace("ENDING", ending)
    for example in encode(instructions(("Hi\n", "Hello"), ("Rate it.\n", "Good")), tokenizer).examples:
        assert example.branches[0].tolist().count(EOS) == 1
        assert example.branches[0][-1] == EOS


def test_an_eos_inside_an_answer_does_not_stand_for_the_one_at_its_end(tokenizer):
    tokenizer.chat_template = LINES.replace("ENDING", "")
    (example,) = encode(instructions(("Hi\n", "Hello<|endoftext|>Bye")), tokenizer).examples
    assert tokenizer.decode(example.branches[0]) == "Hello<|endoftext|>Bye<|endoftext|>"


@pytest.mark.parametrize("pad", ["<|endoftext|>", "<|pad|>"])
def test_eos_is_a_target_and_padding_never_is_also_where_they_are_one_token(tokenizer, pad):
    tokenizer.pad_token = pad
    (example,) = encode(pairs(("Hi", "Hello", "It was clean and the staff was kind.")), tokenizer).examples
    for branch in example.branches:
        assert branch[-1] == EOS
        assert not set(branch[:-1].tolist()) & {EOS, tokenizer.pad_token_id}


def test_a_row_that_would_train_on_the_padding_token_is_left_out(tokenizer):
    """The token is spelled out in the data. Where EOS pads, there is no padding token to train on."""
    table = pairs(("Hi", "Hello", "Bye"), ("Hi", "Hello", "Bye<|pad|>"))
    encoded = encode(table, tokenizer)
    assert len(encoded.examples) == 1
    assert encoded.left_out == [(1, "a completion contains the padding token")]


def test_an_answer_that_is_eos_alone_is_left_out(tokenizer):
    """A template may strip blanks: the answer has text in the data and none for the model."""
    tokenizer.chat_template = LINES.replace("{{ m['content'] }}", "{{ m['content'] | trim }}").replace("ENDING", "")
    encoded = encode(instructions(("Hi", " \n "), ("Hi", "Hello")), tokenizer)
    assert encoded.left_out == [(0, "a completion has no token but EOS")]


def test_a_conversation_that_the_template_refuses_is_left_out_with_what_it_says(tokenizer):
    """Gemma's has no system role, for one."""
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + LINES.replace("ENDING", "")
    )
    table = pl.DataFrame(
        {
            "prompt": [user("Hi"), user("Hi"), [{"role": "system", "content": "Be kind."}, *user("Hi")]],
            "completion": [assistant("Hello"), assistant(""), assistant("Hello")],
        }
    )
    encoded = encode(table, tokenizer)
    assert len(encoded.examples) == 1
    assert [row for row, _ in encoded.left_out] == [1, 2], "in the order of the table"
    assert encoded.left_out[1][1] == "the chat template refuses the conversation: no system role"


def test_the_prompt_is_cut_from_the_left_until_the_longest_completion_fits(tokenizer):
    """Prompt 26 or so tokens, longest completion n: the last max_length - n prompt tokens stay, and the completion is whole."""
    table = pairs(("Write a review of the hotel at the old mill.", "It was clean and kind.", "No"))
    (whole,) = encode(table, tokenizer).examples
    longest = max(map(len, whole.branches))
    (cut,) = encode(table, tokenizer, max_length=longest + 5).examples
    assert cut.prompt.tolist() == whole.prompt[-5:].tolist()
    assert [b.tolist() for b in cut.branches] == [b.tolist() for b in whole.branches]


def test_a_row_that_just_fits_is_not_cut_and_one_prompt_token_is_the_least(tokenizer):
    table = instructions(("Write a review.", "It was clean."))
    (whole,) = encode(table, tokenizer).examples
    (fits,) = encode(table, tokenizer, max_length=whole.length).examples
    assert fits.prompt.tolist() == whole.prompt.tolist()
    (least,) = encode(table, tokenizer, max_length=whole.targets + 1).examples
    assert least.prompt.tolist() == whole.prompt[-1:].tolist()


def test_a_completion_that_does_not_fit_is_left_out_with_its_row_and_reason(tokenizer):
    """The middle row's completion is as long as max_length, so no prompt token fits beside it; its neighbours stay."""
    rows = [("Hi", "Hello"), ("Hi", "It was clean and the staff was kind."), ("Bye", "Bye")]
    length = encode(instructions(rows[1]), tokenizer).examples[0].targets
    encoded = encode(instructions(*rows), tokenizer, max_length=length)
    assert len(encoded.examples) == 2
    places = pl.DataFrame({"source": ["a.jsonl"] * 3, "row": [7, 8, 9]})
    reason = f"a completion of {length} tokens does not fit max_length {length} with a prompt"
    assert encoded.left_out == [(1, reason)]
    assert encoded.quarantine(places).to_dicts() == [{"source": "a.jsonl", "row": 8, "reason": reason}]


def test_a_completion_is_cut_where_the_recipe_allows_and_then_has_no_eos(tokenizer):
    """8 tokens at most: one stays of the prompt, 7 of the long completion; the short one is whole and ends with EOS."""
    table = pairs(("Hi there", "It was clean and the staff was kind.", "No"))
    (whole,) = encode(table, tokenizer).examples
    encoded = encode(table, tokenizer, max_length=8, overlong="truncate")
    (cut,) = encoded.examples
    assert cut.prompt.tolist() == whole.prompt[-1:].tolist()
    assert cut.branches[0].tolist() == whole.branches[0][:7].tolist()
    assert EOS not in cut.branches[0]
    assert cut.branches[1].tolist() == whole.branches[1].tolist()
    assert cut.branches[1][-1] == EOS
    assert (encoded.prompts_cut, encoded.completions_cut) == (1, 1)


@pytest.mark.parametrize("overlong", ["quarantine", "truncate"])
def test_a_row_that_fits_is_the_same_under_both_rules(tokenizer, overlong):
    """The completion and one token of the prompt just fit; the prompt loses the rest, which counts as one cut prompt."""
    table = instructions(("Write a review.", "It was clean."))
    (whole,) = encode(table, tokenizer).examples
    encoded = encode(table, tokenizer, max_length=whole.targets + 1, overlong=overlong)
    assert encoded.examples[0].branches[0].tolist() == whole.branches[0].tolist()
    assert (encoded.prompts_cut, encoded.completions_cut) == (1, 0)


def test_a_pair_that_differs_only_beyond_the_cut_is_left_out(tokenizer):
    """Both answers start with the same 40 words: more than the 7 tokens that stay."""
    table = pairs(("Hi", "the " * 40 + "end", "the " * 40 + "rest"), ("Hi", "Hello", "Bye"))
    assert len(encode(table, tokenizer).examples) == 2
    encoded = encode(table, tokenizer, max_length=8, overlong="truncate")
    assert encoded.left_out == [(0, "chosen and rejected are equal as tokens once cut to 7")]


def test_the_counts_say_what_became_of_every_row(tokenizer):
    """Row 0 fits, 1 loses some of its prompt, 2 does not fit, 3 is a pair of equals."""
    long = "It was clean and the staff was kind."
    table = pairs(
        ("Hi", "Yes", "No"), ("Write a review of the hotel. " * 9, "Yes", "No"), ("Hi", long * 9, "No"), ("Hi", "No", "No")
    )
    encoded = encode(table, tokenizer, max_length=60)
    assert [row for row, _ in encoded.left_out] == [2, 3]
    assert encoded.summary() == "4 rows: 2 examples, 2 left out; 1 prompts and 0 completions cut, 0 boundaries moved"


def test_a_pair_that_is_equal_as_tokens_is_left_out(tokenizer):
    encoded = encode(pairs(("Hi", "Hello", "Hello"), ("Hi", "Hello", "Bye")), tokenizer)
    assert len(encoded.examples) == 1
    assert encoded.left_out == [(0, "chosen and rejected are equal as tokens")]


def test_no_rows_give_no_examples_and_an_empty_quarantine_with_its_columns(tokenizer):
    encoded = encode(instructions(("Hi", "Hello")).clear(), tokenizer)
    places = pl.DataFrame(schema={"source": pl.String, "row": pl.Int64})
    assert encoded.examples == []
    assert encoded.quarantine(places).schema == {"source": pl.String, "row": pl.Int64, "reason": pl.String}


def test_two_bos_tokens_are_refused(tokenizer):
    tokenizer.bos_token = "<|pad|>"
    assert encode(instructions(("Hi", "Hello")), tokenizer).examples[0].prompt[0] == tokenizer.bos_token_id
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    with pytest.raises(Refusal, match="two BOS tokens") as refused:
        encode(instructions(("Hi", "Hello")), tokenizer)
    assert refused.value.where == "data.preferences"


@pytest.mark.parametrize(("shifted", "rows"), [(1, 99), (2, 100), (3, 3)])
def test_shifted_boundaries_in_more_than_1_percent_of_rows_are_refused(tokenizer, shifted, rows):
    with pytest.raises(Refusal, match=f"{shifted} of {rows} rows") as refused:
        encode(shifting(tokenizer, shifted, rows), tokenizer)
    assert refused.value.where == "data.preferences"


@pytest.mark.parametrize(("shifted", "rows"), [(1, 100), (0, 5), (2, 200)])
def test_shifted_boundaries_in_at_most_1_percent_of_rows_are_kept_with_nothing_lost(tokenizer, shifted, rows):
    table = shifting(tokenizer, shifted, rows)
    encoded = encode(table, tokenizer)
    assert (len(encoded.examples), encoded.shifted) == (rows, shifted)
    for example, (prompt, completion) in zip(encoded.examples, table.rows(), strict=True):
        text = prompt[0]["content"] + completion[0]["content"] + "<|endoftext|>"
        assert tokenizer.decode([*example.prompt, *example.branches[0]]) == text


def shifting(tokenizer, shifted: int, rows: int) -> pl.DataFrame:
    """The generation prompt is a blank. An answer ` kind` makes it one token with the blank; after `a` and a line break, none.

    Without the template's blank in the whole conversation, an answer brings its own.
    """
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %} {% endif %}"
    return instructions(*[("staff was", " kind")] * shifted, *[("staff was", " \nkind")] * (rows - shifted))


def test_an_encoder_reads_the_prompt_with_its_eos_and_the_decoder_the_answer(t5_tokenizer):
    """T5 (EOS is 1) reads line breaks as blanks. A cut prompt keeps its end, EOS included."""
    table = pairs(("Rate it.", "Good", "Bad"))
    (decoder,) = encode(table, t5_tokenizer).examples
    (example,) = encode(table, t5_tokenizer, encoder_decoder=True).examples
    assert example.prompt.tolist() == [*decoder.prompt.tolist(), 1]
    assert t5_tokenizer.decode(example.prompt) == "User: Rate it. Assistant:</s>"
    assert [t5_tokenizer.decode(branch) for branch in example.branches] == ["Good</s>", "Bad</s>"]
    assert encode_prompts([user("Rate it.")], t5_tokenizer, encoder_decoder=True)[0].tolist() == example.prompt.tolist()
    (cut,) = encode(table, t5_tokenizer, max_length=6 + 3, encoder_decoder=True).examples
    assert cut.prompt.tolist() == example.prompt[-3:].tolist()


def test_a_prompt_of_an_encoder_is_never_cut_to_its_eos_alone(t5_tokenizer):
    """6 tokens of "Good" with EOS, one of the prompt and its EOS: 8 fit, 7 do not."""
    table = pairs(("Rate it.", "Good", "Bad"))
    assert encode(table, t5_tokenizer, max_length=8, encoder_decoder=True).examples[0].prompt.tolist()[-1] == 1
    assert encode(table, t5_tokenizer, max_length=7, encoder_decoder=True).examples == []


def test_rows_that_the_template_refuses_are_neither_encoded_nor_asked(tokenizer):
    tokenizer.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + (
        tokenizer.chat_template
    )
    table = instructions(("Hi", "Hello"), ("Bye", "Goodbye"))
    system = pl.DataFrame({"prompt": [[{"role": "system", "content": "Be kind."}, *user("Hi")]], "completion": [assistant("Hm")]})
    whole = pl.concat([system, table])
    assert accepted(tokenizer, whole).equals(table)
    assert encode(whole, tokenizer).left_out == [(0, "the chat template refuses the conversation: no")]
    assert accepted(tokenizer, whole.clear()).height == 0
