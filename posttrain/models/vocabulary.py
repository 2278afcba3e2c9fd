"""Whether a model has an embedding for every token of its tokenizer; a token without one is an index error while training."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from posttrain.data.tokenizer import template_of
from schemas.errors import Refusal

SHOWN = 8  # ids that a message names


def embeddings_of(config: Any) -> int | None:
    """Rows of the embedding by a transformers config; None where the config does not say."""
    rows: int | None = getattr(config.get_text_config(), "vocab_size", None)
    return rows


def unknown_tokens(tokenizer: PreTrainedTokenizerBase, config: Any) -> dict[int, str]:
    """Tokens by id, in order, that have no embedding; more rows than tokens are padding, and fine."""
    rows = embeddings_of(config)
    if rows is None:
        return {}
    return dict(sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows))


def refuse_unknown_tokens(tokenizer: PreTrainedTokenizerBase, config: Any, field: str) -> None:
    """Compare a tokenizer with the rows of the embedding.

    Raises:
        Refusal: when there are tokens without an embedding; `field` is where the recipe names the model.
    """
    beyond = unknown_tokens(tokenizer, config)
    if not beyond:
        return
    rows, template = embeddings_of(config), template_of(tokenizer) or ""
    used = [number for number, token in beyond.items() if token in template]
    which = f"ids {_shown(list(beyond))} have none" + (f"; the chat template writes {_shown(used)}" if used else "")
    set_field = "set model.resize_embeddings=true" if field == "model" else "resize it with transformers"
    raise Refusal(
        where=field,
        found=f"a tokenizer of {max(beyond) + 1} tokens and a model of {rows} embeddings ({which})",
        allowed=f"at most {rows} tokens",
        remedy=f"{set_field}, or take the tokenizer and the chat template that the model was trained with",
    )


def _shown(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:SHOWN])) + (", \u2026" if numbers[SHOWN:] else "")
