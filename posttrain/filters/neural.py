"""Scores of documents by models that transformers loads: a classifier, or the perplexity under a causal language model.

Each document goes through the model alone: padded to others it would have a score that depends, by rounding, on them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import Refusal
from schemas.filter_scores import Perplexity, Quality

LONGEST = 8 << 10  # characters of a document that a tokenizer is given for each 512 tokens that are read


def class_scores(texts: Iterable[str], asked: Quality) -> NDArray[np.float64]:
    """The probability of a class, or the logit of a model with one, shape (documents,)."""
    import torch

    assert asked.model is not None
    tokenizer, model = _loaded(asked.model, "AutoModelForSequenceClassification", "filtering.quality.model")
    place = _place(model.config, asked.label)
    found = []
    with torch.inference_mode():
        for text in texts:
            logits = model(**_encoded(tokenizer, model, text, 512)).logits[0].double()
            found.append(float(logits[0] if len(logits) == 1 else logits.softmax(-1)[place]))
    return np.array(found, np.float64)


def perplexities(texts: Iterable[str], asked: Perplexity) -> NDArray[np.float64]:
    """exp of the mean negative log-likelihood of the tokens after the first, shape (documents,); NaN where there is none."""
    import torch

    tokenizer, model = _loaded(asked.model, "AutoModelForCausalLM", "filtering.perplexity.model")
    found = []
    with torch.inference_mode():
        for text in texts:
            encoded = _encoded(tokenizer, model, text, asked.tokens)
            ids = encoded["input_ids"][0]
            if len(ids) < 2:
                found.append(float("nan"))
                continue
            logprobs = model(input_ids=ids[None]).logits[0, :-1].float().log_softmax(-1)
            found.append(float((-logprobs.gather(1, ids[1:, None]).mean()).exp()))
    return np.array(found, np.float64)


def _encoded(tokenizer: Any, model: Any, text: str, tokens: int) -> Any:
    most = min(tokens, getattr(model.config, "max_position_embeddings", tokens) or tokens)
    return tokenizer(text[: LONGEST * max(1, most // 512)], truncation=True, max_length=most, return_tensors="pt")


def _place(config: Any, label: str | int | None) -> int:
    """Which logit a label is."""
    if label is None:
        return int(config.num_labels) - 1
    names = {str(name): at for at, name in config.id2label.items()}
    place = names.get(str(label), label)
    if not isinstance(place, int) or not 0 <= place < config.num_labels:
        raise Refusal(
            where="filtering.quality.label",
            found=repr(label),
            allowed=f"one of {', '.join(names)}, or a number below {config.num_labels}",
            remedy="name a label of the model",
        )
    return place


@cache
def _loaded(folder: str, kind: str, where: str) -> tuple[Any, Any]:
    import transformers

    from posttrain.runtime.cpu_products import fast_cpu_products

    fast_cpu_products()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = getattr(transformers, kind).from_pretrained(folder, local_files_only=True, dtype="float32")
    except (OSError, ValueError) as error:
        raise Refusal(
            where=where,
            found=f"{folder}, which transformers does not load: {str(error).splitlines()[0]}",
            allowed=f"a folder for {kind} and AutoTokenizer",
            remedy="name the folder of such a checkpoint",
        ) from error
    return tokenizer, model.eval()


def check(folder: str, where: str) -> None:
    """Refuse a folder that holds no checkpoint, without loading it."""
    if not (Path(folder).expanduser() / "config.json").is_file():
        raise Refusal(
            where=where,
            found=f"{folder}, without a config.json",
            allowed="a folder with a checkpoint and its tokenizer",
            remedy="name the folder that save_pretrained wrote",
        )
