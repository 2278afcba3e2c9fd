"""What is made once, before the files are annotated, of what a filter is given: an index of evaluation sets, a classifier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from posttrain.data.readers import read_rows
from posttrain.data.sources import SourceFile, resolve
from posttrain.filters.given import sources
from posttrain.filters.learned import trained
from posttrain.filters.plan import unless_there
from posttrain.text.overlap import EvaluationIndex
from schemas.errors import Refusal
from schemas.filtering import Filtering

LONGEST: Final = 1 << 20  # characters of a document that the classifier learns from
EVALUATION, QUALITY = "evaluation.npz", "quality.npy"
"""Names of the pieces that all tasks read."""


def make_ready(filtering: Filtering, work: Path) -> None:
    """Write the index of evaluation sets and the weights of the classifier, unless they are there."""
    found = {where: resolve(given, where, work / "given") for where, given in sources(filtering).items()}
    if filtering.decontaminate:
        with unless_there(work / EVALUATION) as scratch:
            if scratch:
                EvaluationIndex.build(_examples(found["filtering.decontaminate.against"])).save(scratch)
    if filtering.quality and filtering.quality.good is not None:
        with unless_there(work / QUALITY) as scratch:
            if scratch:
                good, bad = (_documents(found[f"filtering.quality.{side}"], side) for side in ("good", "bad"))
                with scratch.open("wb") as stream:
                    np.save(stream, trained(good, bad, filtering.quality.seed))


def _documents(files: list[SourceFile], side: str) -> list[str]:
    rows = (columns for file in files for _, columns in read_rows(file, lambda bad: None, columns=frozenset({"text"})))
    texts = [text[:LONGEST] for columns in rows if isinstance(text := columns.get("text"), str) and text.strip()]
    if not texts:
        raise Refusal(
            where=f"filtering.quality.{side}",
            found="no row with a text",
            allowed="documents with a column text",
            remedy="name files of documents, or rename their column",
        )
    return texts


def _examples(files: list[SourceFile]) -> Iterator[tuple[str, str]]:
    """Every text of every row, with its place."""
    for file in files:
        for row, columns in read_rows(file, lambda bad: None):
            for text in _texts(columns):
                yield f"{file.name}:{row}", text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
