"""What is refused of a whole table because its template puts the boundary between prompt and answer in a wrong place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from transformers import PreTrainedTokenizerBase

from schemas.errors import Refusal

MAX_SHIFTED_BOUNDARIES: Final = 0.01  # share of rows whose prompt is not a token prefix of prompt + completion


def refuse_double_bos(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], field_name: str) -> None:
    """Refuse prompts that start with two BOS tokens: the model has never seen that."""
    bos = tokenizer.bos_token_id
    if bos is not None and any(list(ids[:2]) == [bos, bos] for ids in prompts):
        raise Refusal(
            where=field_name,
            found="two BOS tokens at the start of a prompt",
            allowed="one",
            remedy="remove bos_token from the chat template",
        )


def refuse_shifted(shifted: int, rows: int, field_name: str) -> None:
    """Refuse a table of so many rows in too many of which the prompt's tokens are not how prompt and completion begin."""
    if shifted > MAX_SHIFTED_BOUNDARIES * rows:
        raise Refusal(
            where=field_name,
            found=f"{shifted} of {rows} rows whose prompt tokens are not the start of prompt + completion",
            allowed=f"at most {MAX_SHIFTED_BOUNDARIES:.0%}",
            remedy="use a chat template whose generation prompt ends where the answer starts (a line break, say)",
        )
