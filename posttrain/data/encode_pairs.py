"""From clean pairs to examples for an encoder, which reads prompt and response as two texts with its own tokens between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from transformers import PreTrainedTokenizerBase

from posttrain.data.encode import Conversation, Encoded, Rules, cut_left, fit
from posttrain.data.packing import Example
from schemas.training import Overlong


@dataclass(frozen=True)
class Joints:
    """Special tokens that a tokenizer puts before, between and after two texts."""

    before: list[int]
    between: list[int]
    after: list[int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Joints:
        """Seen from what it does with the texts a and b."""
        first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "b"))
        whole: list[int] = tokenizer("a", "b")["input_ids"]
        start = next(i for i in range(len(whole)) if whole[i : i + len(first)] == first)
        end = start + len(first)
        other = next(i for i in range(end, len(whole)) if whole[i : i + len(second)] == second)
        return cls(whole[:start], whole[end:other], whole[other + len(second) :])

    def parts(self, prompt: list[int], response: list[int]) -> tuple[list[int], list[int]]:
        """The tokens before the response, and the response with what ends it."""
        return [*self.before, *prompt, *self.between], [*response, *self.after]


def prompt_text(conversation: Conversation) -> str:
    """A single message as it is; more of them with their roles."""
    if len(conversation) == 1:
        return str(conversation[0]["content"])
    return "\n\n".join(f"{message['role'].capitalize()}:\n{message['content']}" for message in conversation)


def encode_pairs(table: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, max_length: int, overlong: Overlong) -> Encoded:
    """Rows with `prompt`, `chosen` and `rejected` to examples whose prompt ends with the tokens between the two texts.

    Prompts are cut from the left, and responses left out or cut, as `encode_conversations` does.
    """
    encoded, joints = Encoded(), Joints.of(tokenizer)
    rules = _rules(joints, max_length, overlong == "truncate")
    rows = [
        (prompt_text(prompt), str(chosen[0]["content"]), str(rejected[0]["content"]))
        for prompt, chosen, rejected in table.select("prompt", "chosen", "rejected").iter_rows()
    ]
    several = table.select((pl.col("chosen").list.len() > 1) | (pl.col("rejected").list.len() > 1)).to_series()
    for row, (prompt, *responses) in enumerate(_tokens(tokenizer, rows)):
        if several[row]:
            encoded.left_out.append((row, "an answer of several messages, of which an encoder reads one"))
            continue
        parts = [joints.parts(prompt, response) for response in responses]
        whole, branches = parts[0][0], [branch for _, branch in parts]
        example = fit(whole, branches, rules)
        if isinstance(example, str):
            encoded.left_out.append((row, example))
            continue
        encoded.examples.append(example)
        encoded.prompts_cut += len(example.prompt) < len(whole)
        encoded.completions_cut += example.targets < sum(map(len, branches))
    return encoded


def encode_text_pairs(
    prompts: list[str], responses: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Example]:
    """One example for every prompt with its response; what is too long is cut."""
    joints = Joints.of(tokenizer)
    rules = _rules(joints, max_length, truncate=True)
    examples = []
    for prompt, response in _tokens(tokenizer, list(zip(prompts, responses, strict=True))):
        whole, branch = joints.parts(prompt, response)
        kept = np.asarray(branch[: max_length - rules.least(whole)], np.int32)
        examples.append(Example(cut_left(whole, max_length - len(kept), rules.bos), (kept,)))
    return examples


def _rules(joints: Joints, max_length: int, truncate: bool) -> Rules:
    """The first special token is never cut off a prompt, nor are those between the texts."""
    return Rules(max_length, truncate, joints.before[0] if joints.before else None, None, len(joints.between))


def _tokens(tokenizer: PreTrainedTokenizerBase, rows: Sequence[tuple[str, ...]]) -> list[list[list[int]]]:
    """Token ids of every text of every row, without special tokens."""
    texts = [text for row in rows for text in row]
    ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else [])
    return [[next(ids) for _ in row] for row in rows]
