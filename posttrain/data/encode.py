"""From clean rows to token examples: chat template, prompt boundary, EOS, truncation. No row is lost without a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from transformers import PreTrainedTokenizerBase

from posttrain.packing import Example, Tokens
from schemas.errors import Refusal

MAX_SHIFTED_BOUNDARIES = 0.01  # share of rows whose prompt is not a token prefix of prompt + completion


@dataclass
class Encoded:
    """Examples, and the rows of the input table that were left out with their reason."""

    examples: list[Example] = field(default_factory=list)
    left_out: list[tuple[int, str]] = field(default_factory=list)

    def quarantine(self, table: pl.DataFrame) -> pl.DataFrame:
        """The rows left out, by the file and row that `table` names."""
        places = table[[row for row, _ in self.left_out]].select("source", "row")
        return places.with_columns(reason=pl.Series([reason for _, reason in self.left_out], dtype=pl.String))


def encode_documents(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, context: int) -> list[Example]:
    """Documents with an EOS, cut into pieces of at most `context` tokens; pieces overlap by one, so each is a target once."""
    examples = []
    for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]:
        tokens = np.asarray([*ids, tokenizer.eos_token_id], np.int32)
        for start in range(0, len(tokens) - 1, context - 1):
            piece = tokens[start : start + context]
            examples.append(Example(piece[:1], (piece[1:],)))
    return examples


def encode_conversations(table: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, max_length: int, field_name: str) -> Encoded:
    """Rows with `prompt` and one or more completion columns (`completion`, or `chosen` and `rejected`) to examples.

    Args:
        table: clean rows; every cell is a list of {role, content}.
        tokenizer: prepared with EOS and chat template.
        max_length: longest prompt with one completion in tokens.
        field_name: recipe field of the data, for messages.

    Raises:
        Refusal: when the template writes two BOS tokens, or when the prompt is not a token prefix in more than 1% of rows.
    """
    columns = [name for name in ("completion", "chosen", "rejected") if name in table.columns]
    prompts = table["prompt"].to_list()
    prompt_ids = _render(tokenizer, prompts, generation_prompt=True)
    full_ids = [
        _render(tokenizer, [p + c for p, c in zip(prompts, table[name].to_list(), strict=True)], generation_prompt=False)
        for name in columns
    ]
    _refuse_double_bos(tokenizer, prompt_ids, field_name)
    encoded, shifted = Encoded(), 0
    for row, (prompt, *wholes) in enumerate(zip(prompt_ids, *full_ids, strict=True)):
        boundary = min(_common_prefix(prompt, whole) for whole in wholes)
        shifted += boundary < len(prompt)
        branches = [_with_eos(whole[boundary:], tokenizer) for whole in wholes]
        if reason := _unusable(boundary, branches, max_length):
            encoded.left_out.append((row, reason))
            continue
        room = max_length - max(map(len, branches))
        encoded.examples.append(Example(np.asarray(prompt[:boundary][-room:], np.int32), tuple(branches)))
    _refuse_shifted(shifted, len(prompts), field_name)
    return encoded


def _render(
    tokenizer: PreTrainedTokenizerBase, conversations: list[list[dict[str, Any]]], generation_prompt: bool
) -> list[list[int]]:
    texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=generation_prompt) for c in conversations]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return ids


def _with_eos(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The completion, ended by the EOS token that teaches the model to stop."""
    eos: Any = tokenizer.eos_token_id
    return np.asarray(tokens if eos in tokens else [*tokens, eos], np.int32)


def _unusable(boundary: int, branches: list[Tokens], max_length: int) -> str | None:
    if boundary == 0:
        return "the prompt has no token"
    longest = max(map(len, branches))
    if longest >= max_length:
        return f"a completion of {longest} tokens does not fit max_length {max_length} with a prompt"
    if len(branches) == 2 and np.array_equal(branches[0], branches[1]):
        return "chosen and rejected are equal as tokens"
    return None


def _common_prefix(left: list[int], right: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _refuse_double_bos(tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], field_name: str) -> None:
    bos = tokenizer.bos_token_id
    if bos is not None and any(ids[:2] == [bos, bos] for ids in prompts):
        raise Refusal(
            field_name, "two BOS tokens at the start of a prompt", "one", "remove bos_token from the chat template or the data"
        )


def _refuse_shifted(shifted: int, rows: int, field_name: str) -> None:
    if shifted > MAX_SHIFTED_BOUNDARIES * rows:
        raise Refusal(
            field_name,
            f"{shifted} of {rows} rows whose prompt tokens are not the start of prompt + completion",
            f"at most {MAX_SHIFTED_BOUNDARIES:.0%}",
            "use a chat template whose generation prompt ends where the answer starts (a line break, say)",
        )
