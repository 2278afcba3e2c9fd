"""Rows that repeat a text of an evaluation set, by the rule of `posttrain/text/overlap.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from posttrain.data.readers import read_rows
from posttrain.data.sources import SourceFile
from posttrain.text.buffers import of_series
from posttrain.text.overlap import EvaluationIndex
from schemas.errors import Refusal


def evaluation_index(files: Sequence[SourceFile], where: str) -> EvaluationIndex:
    """An index of every text of every row, of 8 words or more.

    Raises:
        Refusal: when there is none, in the name of the field `where`.
    """
    index = EvaluationIndex.build(_texts_of(files))
    if not len(index):
        raise Refusal(
            where=where,
            found=f"no text of 8 words or more in {', '.join(file.name for file in files)}",
            allowed="rows with the questions of an evaluation set",
            remedy="check the path, or remove the field",
        )
    return index


def contaminated(texts: Sequence[pl.Series], index: EvaluationIndex) -> NDArray[np.bool_]:
    """[rows] whether a part of a row has a run of 13 words of an evaluation text, or a whole one of 8 to 12."""
    found = np.zeros(len(texts[0]) if texts else 0, np.bool_)
    for each in texts:
        found |= index.runs_in(of_series(each)) > 0
    return found


def _texts_of(files: Sequence[SourceFile]) -> Iterator[tuple[str, str]]:
    for file in files:
        for row, columns in read_rows(file, lambda bad: None):
            yield from ((f"{file.name}:{row}", text) for text in _texts(columns))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
