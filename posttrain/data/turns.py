"""Which tokens of a conversation are trained on: those of every answer in it, up to and with what ends the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from posttrain.data.end_tokens import end_tokens
from posttrain.data.messages import extra_of
from posttrain.data.packing import Example
from posttrain.data.rendering import generated, rendered

GENERATION: Final = re.compile(r"\{%-?\s*generation\s*-?%\}")

Span = tuple[int, int]
Conversation = list[dict[str, Any]]


def trained_turns(prompt: Conversation) -> list[int]:
    """Positions of the answers in a prompt that are trained on: those without `weight: 0`."""
    return [at for at, message in enumerate(prompt) if message["role"] == "assistant" and extra_of(message).get("weight") != 0]


def spans_of(
    tokenizer: PreTrainedTokenizerBase, rows: Mapping[int, tuple[Conversation, Conversation]], wholes: Mapping[int, list[int]]
) -> dict[int, list[Span | None]]:
    """Where the earlier answers of conversations stand among their tokens; None for one that the template writes otherwise once
    the conversation goes on (without its reasoning, say), which cannot be trained on there.

    Args:
        tokenizer: with its chat template, whose `{% generation %}` blocks are used where it has them.
        rows: prompt and completion by row; those without an earlier answer may be left out.
        wholes: token ids of each conversation as a whole.

    Returns:
        For each row the first token of every answer of `trained_turns` and the first after it.
    """
    asked = {row: turns for row, (prompt, _) in rows.items() if (turns := trained_turns(prompt))}
    found = {}
    for row in asked if GENERATION.search(_template(tokenizer)) else ():
        if (spans := _marked(tokenizer, *rows[row], wholes[row], asked[row])) is not None:
            found[row] = spans
    rest = {row: turns for row, turns in asked.items() if row not in found}
    texts = {row: list(_prefixes(tokenizer, rows[row][0], turns)) for row, turns in rest.items()}
    ids = _tokens(tokenizer, [text for each in texts.values() for text in each])
    ends = frozenset(end_tokens(tokenizer)) if rest else frozenset()
    for row, turns in rest.items():
        whole = rendered(tokenizer, [*rows[row][0], *rows[row][1]])
        pieces = [(texts[row][2 * n], next(ids), texts[row][2 * n + 1], next(ids)) for n in range(len(turns))]
        each = (_span(tokenizer, whole, wholes[row], *piece, ends) for piece in pieces)
        found[row] = [span if at else None for at, span in zip(turns, each, strict=True)]  # nothing is asked before a greeting
    return found


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    given = tokenizer.chat_template
    return str(given.get("default", "") if isinstance(given, dict) else given)


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[list[int]]:
    return iter(tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else [])


def _prefixes(tokenizer: PreTrainedTokenizerBase, prompt: Conversation, turns: Sequence[int]) -> Iterator[str]:
    """For each answer the conversation before it, of which there is none before a greeting, and with it."""
    for at in turns:
        yield rendered(tokenizer, prompt[:at], generation_prompt=True) if at else ""
        yield rendered(tokenizer, prompt[: at + 1])


def _marked(
    tokenizer: PreTrainedTokenizerBase, prompt: Conversation, completion: Conversation, whole: list[int], turns: Sequence[int]
) -> list[Span | None] | None:
    """The blocks that the template marks as generated; None where they are not one for each answer."""
    ids, mask = generated(tokenizer, [*prompt, *completion])
    edges = np.flatnonzero(np.diff(np.r_[0, mask, 0])).tolist()
    blocks = list(zip(edges[::2], edges[1::2], strict=True))
    answers = [at for at, message in enumerate([*prompt, *completion]) if message["role"] == "assistant"]
    if ids != whole or len(blocks) != len(answers):
        return None
    ends = frozenset(end_tokens(tokenizer))
    return [_with_stop(blocks[answers.index(at)], whole, ends) for at in turns]


def _with_stop(block: Sequence[int], whole: list[int], ends: frozenset[int]) -> Span:
    """With the token that ends the answer, where the template leaves it outside of the block: it must be learnt too."""
    start, end = block
    stops = whole[end - 1] not in ends and end < len(whole) and whole[end] in ends
    return start, end + stops


def _span(
    tokenizer: PreTrainedTokenizerBase, text: str, whole: list[int], before: str, prompt: list[int], until: str, ids: list[int],
    ends: frozenset[int],
) -> Span | None:  # fmt: skip
    """Checked by text and by token: both renderings must be how the whole begins, apart from blanks after the answer's end."""
    if not text.startswith(before) or not text.startswith(until.rstrip()):
        return None
    start, end = common_prefix(prompt, whole), _end(tokenizer, ids, ends)
    return (start, end) if 0 < start < end and ids[:end] == whole[:end] else None


def _end(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: frozenset[int]) -> int:
    """After the last token that is no blank behind what ends the answer."""
    end = len(ids)
    while end and ids[end - 1] not in ends and not str(tokenizer.decode(ids[end - 1])).strip():
        end -= 1
    return end


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their start."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def with_turns(example: Example, boundary: int, spans: Sequence[Span], keeps_first: bool) -> Example:
    """An example that is trained on earlier answers too: its prompt ends before the first token of them.

    Args:
        example: prompt (cut from the left, maybe) and completion.
        boundary: tokens of the prompt before it was cut.
        spans: the earlier answers, counted in the tokens of the whole prompt.
        keeps_first: whether the first token stays where a prompt is cut.
    """
    mask: NDArray[np.bool_] = np.zeros(boundary, np.bool_)
    for start, end in spans:
        mask[start : min(end, boundary)] = True
    if lost := boundary - len(example.prompt):
        mask = np.r_[mask[: int(keeps_first)], mask[int(keeps_first) + lost :]]
    mask[0] = False  # nothing stands before it from which it could be predicted
    if not mask.any():
        return example
    first, (branch,) = int(mask.argmax()), example.branches
    trained = np.r_[mask[first:], np.ones(len(branch), np.bool_)]
    return Example(example.prompt[:first], (np.r_[example.prompt[first:], branch],), trained)
