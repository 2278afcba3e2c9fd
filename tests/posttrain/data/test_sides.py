"""Answers of several messages: which of their tokens are trained on, template by template, against a mask made of the text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from posttrain.data.chat_templates import BUILT_IN
from posttrain.data.encode import encode_conversations
from posttrain.data.encode_pairs import encode_pairs
from posttrain.data.end_tokens import end_tokens
from posttrain.data.packing import Example
from posttrain.data.rendering import rendered
from posttrain.data.sides import OTHERWISE, of_branches
from posttrain.data.sources import SourceFile
from posttrain.data.validate import validate
from posttrain.scoring.known_scores import _digests
from posttrain.scoring.scorer import Scorer
from posttrain.training.unpaired import Answers
from schemas.checks import Checks
from schemas.errors import Refusal
from schemas.messages import MESSAGES

Message = dict[str, Any]
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}(){% endfor %}"
    "{{ eos_token if m.role == 'assistant' else '' }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
FORGETFUL = PLAIN.replace("{{ m.content }}", "{{ m.content if loop.last or m.role != 'assistant' else m.content[2:] }}")

MARKED = (
    "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content if loop.last else m.content[2:] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def turn(role: str, content: str, **extra: Any) -> Message:
    return {"role": role, "content": content, "extra": json.dumps(extra) if extra else None}


USER, CALLS = turn("user", "Is it raining?"), [{"type": "function", "function": {"name": "look", "arguments": {}}}]
TRACE = [turn("assistant", "", tool_calls=CALLS), turn("tool", "sunny"), turn("assistant", "No, it is dry.")]
TALK = [turn("assistant", "Yes, it rains."), turn("user", "Really?"), turn("assistant", "Well, no.")]
OTHER = [turn("assistant", "No.")]


def table(chosen: list[Message], rejected: list[Message], prompt: list[Message] | None = None) -> pl.DataFrame:
    columns = {"prompt": [prompt or [USER]], "chosen": [chosen], "rejected": [rejected]}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, MESSAGES))


def encode(rows: pl.DataFrame, tokenizer: Any, **more: Any) -> Any:
    return encode_conversations(rows, tokenizer, more.pop("max_length", 400), "data.preferences", **more)


def trained(example: Any, tokenizer: Any) -> list[str]:
    masks = np.split(example.trained, np.cumsum([len(branch) for branch in example.branches])[:-1])
    return [tokenizer.decode(branch[mask]) for branch, mask in zip(example.branches, masks, strict=True)]


def test_the_assistants_tokens_alone_are_trained_on(tokenizer):
    tokenizer.chat_template = PLAIN
    (example,) = encode(table(TRACE, OTHER), tokenizer).examples
    assert tokenizer.decode(example.prompt) == "user: Is it raining?\nassistant: "
    assert tokenizer.decode(example.branches[0]) == ("look()<|endoftext|>\ntool: sunny\nassistant: No, it is dry.<|endoftext|>")
    assert trained(example, tokenizer) == ["look()<|endoftext|>No, it is dry.<|endoftext|>", "No.<|endoftext|>"]
    assert example.targets == int(example.trained.sum()) < sum(map(len, example.branches))


@pytest.mark.parametrize("template", BUILT_IN)
def test_the_mask_is_that_of_the_text(tokenizer, template):
    """By the characters of each token: those inside of an answer, and the token that ends it; nothing of the user's turn."""
    tokenizer.chat_template = BUILT_IN[template]
    tokenizer.add_special_tokens({"bos_token": "<s>", "extra_special_tokens": ["<|im_end|>", "<|eot_id|>", "<end_of_turn>"]})
    (example,) = encode(table(TALK, OTHER), tokenizer).examples
    whole = rendered(tokenizer, [USER, *TALK])
    offsets = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    branch = example.branches[0].tolist()
    pieces = list(zip(branch, example.trained[: len(branch)], offsets[len(example.prompt) :], strict=False))
    spans = [(start := whole.index(said["content"]), start + len(said["content"])) for said in TALK[::2]]
    for token, trains, (first, last) in pieces:
        if any(first < end and last > start for start, end in spans):
            assert trains
        elif whole[first:last].strip():
            assert not trains or token in end_tokens(tokenizer), whole[first:last]
    for _, end in spans:
        token, trains, _ = next(piece for piece in pieces if piece[2][0] >= end)
        assert trains
        assert token in end_tokens(tokenizer)
    assert example.trained[len(branch) - 1]


def test_rows_of_single_answers_have_no_mask(tokenizer):
    rows = pl.concat([table(OTHER, TALK[:1]), table(TRACE, OTHER)])
    tokenizer.chat_template = PLAIN
    one, two = encode(rows, tokenizer).examples
    assert one.trained is None
    assert two.trained is not None


def test_a_side_that_is_cut_is_trained_on_as_far_as_it_goes(tokenizer):
    tokenizer.chat_template = PLAIN
    whole = encode(table(TALK, OTHER), tokenizer).examples[0]
    encoded = encode(table(TALK, OTHER), tokenizer, max_length=len(whole.branches[0]) - 3, overlong="truncate")
    (example,) = encoded.examples
    assert (encoded.completions_cut, len(example.trained)) == (1, sum(map(len, example.branches)))
    assert trained(example, tokenizer)[0].startswith("Yes, it rains.<|endoftext|>Well")


@pytest.mark.parametrize(
    ("template", "answer"),
    [(FORGETFUL, TALK), (PLAIN.replace("{{ m.content }}", "{{ m.content[2 * (m.role == 'tool' and not loop.last):] }}"), TRACE)],
)
def test_a_template_that_forgets_leaves_the_row_out(tokenizer, template, answer):
    """What it writes otherwise is an answer, or what a tool said before the last one."""
    tokenizer.chat_template = template
    assert encode(table(answer, OTHER), tokenizer).left_out == [(0, OTHERWISE)]


@pytest.mark.parametrize(
    ("branch", "expected"),
    [([7, 7, 7], [True, False, True]), ([7, 7, 7, 0], [True, False, True, True]), ([7, 7], [True, False])],
)
def test_a_token_put_behind_a_branch_is_trained_on_and_one_cut_off_is_not(branch, expected):
    """The whole has five tokens, of which the branch begins at the third."""
    (mask,) = of_branches([np.array([False, True, True, False, True])], 2, [branch])
    assert mask.tolist() == expected


def test_a_template_that_forgets_and_marks_what_it_generates_keeps_the_row(tokenizer):
    tokenizer.chat_template = MARKED
    (example,) = encode(table(TALK, OTHER), tokenizer).examples
    assert trained(example, tokenizer)[0] == "s, it rains.<|endoftext|>Well, no.<|endoftext|>"


def test_a_token_that_begins_every_text_does_not_begin_an_answer(with_bos):
    with_bos.chat_template = PLAIN
    (example,) = encode(table(TRACE, OTHER), with_bos).examples
    assert trained(example, with_bos) == ["look()<|endoftext|>No, it is dry.<|endoftext|>", "No.<|endoftext|>"]


def test_an_encoder_reads_one_message_a_side(tokenizer):
    encoded = encode_pairs(pl.concat([table(TALK, OTHER), table(OTHER, TALK[:1])]), pair_tokenizer(tokenizer), 99, "quarantine")
    assert encoded.left_out == [(0, "an answer of several messages, of which an encoder reads one")]
    assert len(encoded.examples) == 1


def pair_tokenizer(tokenizer: Any) -> Any:
    from tokenizers.processors import TemplateProcessing

    eos = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {eos}", pair=f"$A {eos} $B {eos}", special_tokens=[(eos, tokenizer.eos_token_id)]
    )
    return tokenizer


@pytest.mark.parametrize("layout", ["packed", "padded", "plain"])
def test_the_score_of_a_side_is_the_sum_over_its_mask(layout, tokenizer, tiny_llama):
    tokenizer.chat_template = PLAIN
    examples = encode(pl.concat([table(TRACE, OTHER), table(OTHER, TALK)]), tokenizer).examples
    policy = tiny_llama(len(tokenizer))
    scores = Scorer(policy, torch.device("cpu"), layout=layout).eval()(examples)
    expected = []
    for example in examples:
        masks = np.split(example.trained, np.cumsum([len(branch) for branch in example.branches])[:-1])
        for branch, mask in zip(example.branches, masks, strict=True):
            ids = torch.from_numpy(np.concatenate([example.prompt, branch]).astype("int64"))[None]
            with torch.no_grad():
                every = policy(input_ids=ids).logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
            expected.append(every[len(example.prompt) - 1 :][torch.from_numpy(mask)].sum())
    torch.testing.assert_close(scores.per_branch().detach(), torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_lengths_and_keys_know_the_mask(tokenizer):
    """Losses per token divide by what is scored, and saved scores are found for the same mask alone."""
    tokenizer.chat_template = PLAIN
    (example,) = encode(table(TALK, OTHER), tokenizer).examples
    whole = replace(example, trained=None)
    said = [tokenizer("Yes, it rains.")["input_ids"], tokenizer("Well, no.")["input_ids"], tokenizer("No.")["input_ids"]]
    assert example.answer_lengths == [len(said[0]) + 1 + len(said[1]) + 1, len(said[2]) + 1]
    assert whole.answer_lengths == [len(branch) for branch in example.branches]
    assert not torch.equal(_digests([example]), _digests([whole]))
    answers = Answers([Example(example.prompt, example.branches[:1], example.trained[: len(example.branches[0])])] * 2,
                      torch.tensor([True, False]), 400)  # fmt: skip
    (elsewhere,) = answers.mismatched([(0, 1)])
    assert elsewhere.targets == example.answer_lengths[0]


# From rows of a file to what is kept: the shared turns are the prompt, and the rest of each side stays as it is.
def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


SHARED = [said("user", "Hi"), said("assistant", "Hello."), said("user", "Is it raining?")]
GOES_ON = [said("user", "Sure?"), said("assistant", "Quite sure.")]
NO, YES = said("assistant", "No."), said("assistant", "Yes.")
ROWS = {
    "calls": ([*SHARED, said("assistant", "Let me look."), said("tool", "sunny"), NO], [YES]),
    "turns": ([*SHARED, NO, *GOES_ON], [YES, *GOES_ON]),
    "other user": ([*SHARED, NO], [said("user", "Is it?"), YES]),
    "two in a row": ([*SHARED, NO, NO | {"content": "No!"}], [YES]),
}


@pytest.mark.parametrize(
    ("several", "name", "kept"),
    [(False, "calls", True), (False, "turns", False), (False, "other user", False), (False, "two in a row", False),
     (True, "calls", True), (True, "turns", True), (True, "other user", False), (True, "two in a row", False)],
)  # fmt: skip
def test_what_counts_as_one_answer(tmp_path: Path, several: bool, name: str, kept: bool) -> None:
    chosen, rest = ROWS[name]
    rejected = SHARED + rest if name != "other user" else [*SHARED[:2], *rest]
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"chosen": chosen, "rejected": rejected}) + "\n")
    checks = Checks(length_bias_fail=1, several_turns=several)
    given = {"preferences": [SourceFile(path.name, str(path))]}
    if not kept:
        with pytest.raises(Refusal, match=r"prompt_mismatch \(1 row, such as p\.jsonl:1\)"):
            validate(given, checks, 0.1, tmp_path)
        return
    validate(given, checks, 0.1, tmp_path)
    (row,) = pl.read_parquet(tmp_path / "preferences.parquet").to_dicts()
    assert [message["content"] for message in row["prompt"]] == [message["content"] for message in SHARED]
    assert [message["content"] for message in row["chosen"]] == [message["content"] for message in chosen[len(SHARED) :]]
    assert [message["content"] for message in row["rejected"]] == [message["content"] for message in rest]
