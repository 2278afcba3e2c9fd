"""What is measured of a document: one column per field of `schemas.filter_rules.FilterRules`, of the same name.

Definitions follow Gopher (Rae et al. 2021, arXiv 2112.11446, appendix A1.1), C4 (arXiv 1910.10683) and FineWeb (arXiv
2406.17557). Where a paper leaves a choice:

- a word is a maximal run of characters that are not Unicode white space, punctuation included;
- a letter is any Unicode letter;
- an ellipsis is `…` or three or more full stops;
- a line is what stands between line breaks, a paragraph what stands between empty lines; both stripped, empty ones left out;
- a bullet is one of `• ‣ ◦ ▪ ● ·`, or `-` or `*` before white space;
- a stop word counts in any case, where no letter, digit or `_` is next to it: `that's` has `that`;
- every occurrence of a line, paragraph or run of words after its first repeats it;
- characters are shares of all characters of the document; a run of words covers those from its first word to its last, white
  space between them included, and where runs overlap no character counts twice;
- of equally frequent runs the first counts as the most frequent one; a run that occurs once repeats nothing and covers nothing;
- a sentence ends at `. ? ! …` or the like in other scripts, before white space or the end of the document, closing quotes and
  brackets between them left aside; at the full-width marks of Chinese in any place. Without a letter, digit or `_` it is none.

A share of nothing is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from posttrain.filters import plain
from posttrain.filters.kernels.document import COLUMNS, measure
from posttrain.filters.kernels.lines import REASONS, drop_lines
from posttrain.text.buffers import Buffers, buffers
from posttrain.text.kernels.characters import flags
from posttrain.text.kernels.compiling import COMPILED
from schemas.filter_rules import FilterRules, LineRules

METRICS = tuple(FilterRules.model_fields)
ANY_LENGTH = 2**62


def annotate(text: pl.Series) -> pl.DataFrame:
    """Metrics of each document.

    Args:
        text: strings without nulls, shape (documents,).

    Returns:
        Shape (documents, metrics): the columns METRICS in that order, all Float64.
    """
    found = measured(buffers(pa.array(text.to_list(), pa.large_string())))
    return pl.DataFrame({name: found[:, at] for at, name in enumerate(METRICS)}, schema=dict.fromkeys(METRICS, pl.Float64))


def measured(texts: Buffers) -> NDArray[np.float64]:
    """Metrics of each document, shape (documents, metrics), in the order of METRICS."""
    out = np.zeros((texts.documents, len(COLUMNS)))
    if COMPILED:
        measure(texts.data, texts.offsets, flags(), out)
        return out[:, [COLUMNS.index(name) for name in METRICS]]
    rows = [plain.measure(texts.text(at)) for at in range(texts.documents)]
    return np.array([[row[name] for name in METRICS] for row in rows]).reshape(texts.documents, len(METRICS))


def without_lines(texts: Buffers, rules: LineRules) -> tuple[Buffers, NDArray[np.int64]]:
    """The documents without the lines that a rule takes out, and how many each rule did.

    Returns:
        The documents, and lines by document and rule, shape (documents, len(REASONS)).
    """
    dropped = np.zeros((texts.documents, len(REASONS)), np.int64)
    if rules == LineRules():
        return texts, dropped
    limits = np.array(line_limits(rules), np.int64)
    if not COMPILED:
        return _without_lines_plain(texts, limits.tolist(), dropped), dropped
    out, offsets = np.empty(len(texts.data), np.uint8), np.zeros(texts.documents + 1, np.int64)
    used = drop_lines(texts.data, texts.offsets, flags(), limits, out, offsets[1:], dropped)
    return Buffers(out[:used], offsets), dropped


def line_limits(rules: LineRules) -> list[int]:
    """The rules as the kernel takes them: one number for each of `kernels.lines.REASONS`."""
    longest = ANY_LENGTH if rules.max_word_length is None else rules.max_word_length
    return [rules.min_words or 0, longest, *(int(getattr(rules, name)) for name in REASONS[2:])]


def _without_lines_plain(texts: Buffers, limits: Sequence[int], dropped: NDArray[np.int64]) -> Buffers:
    kept = []
    for at in range(texts.documents):
        text, dropped[at] = plain.drop_lines(texts.text(at), limits)
        kept.append(text)
    return buffers(pa.array(kept, pa.large_string()))
