"""From rows to tokens: boundary, EOS, truncation, refusals."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import polars as pl
import pytest

from posttrain.data.encode import encode_conversations, encode_documents
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


def encode(table, tokenizer, max_length=200):
    return encode_conversations(table, tokenizer, max_length, "data.preferences")


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


@pytest.mark.parametrize("ending", ["{{ eos_token }}", "", "{{ eos_token }}\n"])
def test_eos_stands_exactly_once_in_a_completion_whether_or_not_the_template_writes_it(tokenizer, ending):
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}:\n{{ m['content'] }}"
        "{% if m['role'] == 'assistant' %}" + ending + "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant:\n{% endif %}"
    )
    table = instructions(("Hi\n", "Hello"), ("Rate it.\n", "Good"))
    for example in encode(table, tokenizer).examples:
        assert example.branches[0].tolist().count(EOS) == 1


def test_eos_is_the_last_token_under_the_default_template_and_one_that_writes_none(tokenizer):
    table = instructions(("Hi", "Hello"))
    assert encode(table, tokenizer).examples[0].branches[0][-1] == EOS
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ eos_token }}", "")
    assert encode(table, tokenizer).examples[0].branches[0].tolist()[-1] == EOS


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
    assert len(encoded.examples) == rows
    for example, (prompt, completion) in zip(encoded.examples, table.rows(), strict=True):
        text = prompt[0]["content"] + completion[0]["content"] + "<|endoftext|>"
        assert tokenizer.decode([*example.prompt, *example.branches[0]]) == text


def shifting(tokenizer, shifted: int, rows: int) -> pl.DataFrame:
    """The generation prompt is a blank. An answer ` kind` makes it one token with the blank; after `a` and a line break, none.

    Without the template's blank in the whole conversation, an answer brings its own.
    """
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %} {% endif %}"
    return instructions(*[("staff was", " kind")] * shifted, *[("staff was", " \nkind")] * (rows - shifted))


@pytest.mark.parametrize("context", [8, 9, 64])
def test_every_token_of_a_document_is_a_target_exactly_once(tokenizer, context):
    """All but the first, which nothing predicts; pieces hold at most `context` tokens and carry on where the last one ended."""
    texts = ["The hotel was clean and the staff was kind. " * 4, "Hello", "", "1, 2, 3." * 9]
    examples = encode_documents(texts, tokenizer, context)
    expected = []
    for text in texts:
        expected += [*tokenizer(text)["input_ids"], EOS][1:]
    assert [int(token) for example in examples for token in example.branches[0]] == expected
    assert Counter(expected)[EOS] == 3  # the empty document has nothing to predict its EOS from
    assert all(1 < example.length <= context for example in examples)
    assert all(len(example.prompt) == 1 for example in examples)


def test_pieces_of_a_document_overlap_by_one_token(tokenizer):
    examples = encode_documents(["The hotel was clean and the staff was kind."], tokenizer, 8)
    assert len(examples) > 1
    for before, after in pairwise(examples):
        assert after.prompt[0] == before.branches[0][-1]


def test_a_document_that_fills_the_context_leaves_no_empty_piece(tokenizer):
    """15 tokens with EOS in pieces of 8 that overlap by one: 8 + 8 - 1 = 15, so two pieces and not three."""
    text = tokenizer.decode(list(range(70, 84)))
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == 14
    assert [example.length for example in encode_documents([text], tokenizer, 8)] == [8, 8]
