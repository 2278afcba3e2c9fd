"""Whether a model has an embedding for every token of its tokenizer; a token without one is an index error while training."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from posttrain.data.tokenizer import template_of
from schemas.errors import Refusal

SHOWN = 8  # ids that a message names


def refuse_unknown_tokens(tokenizer: PreTrainedTokenizerBase, config: Any, field: str) -> None:
    """Compare a tokenizer with the rows of the embedding; more rows than tokens are padding, and fine.

    Raises:
        Refusal: when there are tokens without an embedding; `field` is where the recipe names the model.
    """
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if rows is None:
        return
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    if not beyond:
        return
    numbers = sorted(beyond.values())
    named = ", ".join(map(str, numbers[:SHOWN])) + (", \u2026" if numbers[SHOWN:] else "")
    template = template_of(tokenizer) or ""
    used = [number for token, number in sorted(beyond.items(), key=lambda each: each[1]) if token in template]
    where = f"; the chat template writes {', '.join(map(str, used[:SHOWN]))}" if used else ""
    raise Refusal(
        where=field,
        found=f"a tokenizer of {max(numbers) + 1} tokens and a model of {rows} embeddings (ids {named} have none{where})",
        allowed=f"at most {rows} tokens",
        remedy="resize the embeddings with transformers (model.resize_token_embeddings) and save the model "
        "with its tokenizer, or take the tokenizer and the chat template that the model was trained with",
    )
