"""What is told of a document besides its metrics, where a recipe asks: a column each, null where it does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from posttrain.filters import neural
from posttrain.filters.learned import probabilities
from posttrain.filters.ready import EVALUATION, QUALITY
from posttrain.filters.words import share_of_words
from posttrain.text import tokens
from posttrain.text.buffers import Buffers
from posttrain.text.kernels.folding import Folded
from posttrain.text.language import identify_texts
from posttrain.text.overlap import EvaluationIndex
from schemas.filtering import Filtering

COLUMNS: Final = {
    "language": pa.string(),
    "language_score": pa.float64(),
    "personal_data": pa.int64(),
    "quality": pa.float64(),
    "perplexity": pa.float64(),
    "contaminated_runs": pa.int64(),
    "contaminated_share": pa.float64(),
    "contaminated_by": pa.string(),
    "dirty_word_share": pa.float64(),
    "tokens": pa.int64(),
}
"""`personal_data` counts placeholders; `contaminated_by` is the evaluation example whose words a document has."""

Columns = dict[str, Any]


class Texts(NamedTuple):
    """Some documents as they are scored."""

    texts: Buffers
    folded: Folded

    def strings(self) -> list[str]:
        """Each as a string."""
        return [self.texts.text(at) for at in range(self.texts.documents)]


def scored(texts: Texts, filtering: Filtering, work: Path, personal: Columns) -> dict[str, pa.Array]:
    """All of COLUMNS, each of shape (documents,).

    Args:
        work: folder with what `given.make_ready` wrote.
        personal: the column `personal_data`, which was counted as it was masked.
    """
    found: Columns = dict(personal)
    for field, score in _SCORES.items():
        if (asked := getattr(filtering, field)) is not None:
            found |= score(texts, asked, work)
    count = texts.texts.documents
    return {name: _column(found[name], kind) if name in found else pa.nulls(count, kind) for name, kind in COLUMNS.items()}


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    """Null where a value could not be told (NaN)."""
    return pa.array(values, kind, from_pandas=True)


def _language(texts: Texts, asked: Any, work: Path) -> Columns:
    told = identify_texts(texts.texts)
    return {"language": told.codes(), "language_score": told.scores}


def _quality(texts: Texts, asked: Any, work: Path) -> Columns:
    if asked.model is not None:
        return {"quality": neural.class_scores(texts.strings(), asked)}
    return {"quality": probabilities(texts.folded, _weights(work / QUALITY, _written(work / QUALITY)))}


def _perplexity(texts: Texts, asked: Any, work: Path) -> Columns:
    return {"perplexity": neural.perplexities(texts.strings(), asked)}


def _contamination(texts: Texts, asked: Any, work: Path) -> Columns:
    index = _index(work / EVALUATION, _written(work / EVALUATION))
    found = index.check(texts.texts)
    names = [index.names[at] if at >= 0 else None for at in found.example.tolist()]
    return {"contaminated_runs": found.runs, "contaminated_share": found.share, "contaminated_by": names}


def _dirty_words(texts: Texts, asked: Any, work: Path) -> Columns:
    return {"dirty_word_share": share_of_words(texts.folded, Path(asked.words).expanduser())}


def _tokens(texts: Texts, asked: Any, work: Path) -> Columns:
    if asked.tokenizer is None:
        return {"tokens": tokens.by_bytes(np.diff(texts.texts.offsets))}
    return {"tokens": tokens.counted(texts.strings(), asked.tokenizer)}


_SCORES: Final[Mapping[str, Callable[[Texts, Any, Path], Columns]]] = {
    "language": _language,
    "quality": _quality,
    "perplexity": _perplexity,
    "decontaminate": _contamination,
    "dirty_words": _dirty_words,
    "mixture": _tokens,
}
"""By the field of `Filtering` that asks for it."""


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


@lru_cache(maxsize=2)
def _weights(path: Path, written: int) -> Any:
    return np.load(path)


@lru_cache(maxsize=2)
def _index(path: Path, written: int) -> EvaluationIndex:
    return EvaluationIndex.load(path)


def told(value: float) -> str:
    """A limit as reasons say it."""
    return str(int(value)) if math.isfinite(value) and float(value).is_integer() else repr(value)
