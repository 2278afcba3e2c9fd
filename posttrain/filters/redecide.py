"""Decide again about a filtered corpus by other rules, from the metrics that it keeps; only candidates' texts are read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.filters import divergence, repeated_lines, score_rules
from posttrain.filters.metrics import METRICS
from posttrain.filters.outputs import FEW_VALUES, decided, judged
from posttrain.filters.plan import bands_and_rows
from posttrain.filters.rules import DROPPED, arrays, passing
from posttrain.filters.scores import COLUMNS
from posttrain.filters.steps import VALUE, Repeated
from posttrain.filters.summary import Summary
from posttrain.filters.urls import older, url_keys
from posttrain.filters.variants import described
from posttrain.runtime.writing import replacing
from posttrain.text.buffers import Buffers, buffers
from posttrain.text.copies import COPY, KEY, Records, copies, keys, together
from posttrain.text.kernels.text import Places
from posttrain.text.near import AT_ONCE, BAND, band_records, clusters, links, verified
from schemas.errors import Refusal
from schemas.filtering import Filtering

TABLES = ("kept", "rejected")
GROUPS = 4
READ = ("id", "source", "row", "number", "fingerprint", DROPPED, *METRICS, *COLUMNS, "divergence")
HELD = 128 << 20  # bytes
DECISIONS = pa.schema(
    {"id": pa.string(), "source": pa.string(), "row": pa.int64(), "number": pa.int64(), "kept": pa.bool_(),
     "reasons": pa.list_(pa.string()), "duplicate_of": pa.string(), "jaccard": pa.float64()}
)  # fmt: skip
"""Columns of decisions.parquet; the reasons of a kept document are null."""


def redecide(folder: Path, filtering: Filtering, out: Path) -> dict[str, float]:
    """Write decisions.parquet and summary.json into `out`, from what `filter_corpus` wrote into `folder`.

    Returns:
        documents_in, documents_kept, documents_rejected, documents_quarantined.

    Raises:
        Refusal: when `folder` holds no such result, when what is asked cannot be told from its metrics, or nothing is kept.
    """
    before = _told(folder)
    _refuse_other_texts(before["filtering"], filtering, folder)
    score_rules.refuse_unmeasured(before["filtering"], filtering, folder)
    rows = _Rows(folder, [*READ, *(["bands"] if filtering.dedup.near else []), *(["url"] if filtering.dedup.url else [])])
    repeated = _repeated(folder, filtering, rows)
    summary, ids = Summary(filtering), _Texts(folder, filtering).ids(repeated)
    decisions = decided(filtering, repeated, rows)
    out.mkdir(parents=True, exist_ok=True)
    with (
        replacing(out / "decisions.parquet") as scratch,
        pq.ParquetWriter(scratch, DECISIONS, use_dictionary=FEW_VALUES) as writer,
    ):
        for documents in rows:
            _, kept, rejected = judged(documents, decisions, ids)
            told = [_told_of(some, yes) for some, yes in ((kept, True), (rejected, False))]
            writer.write_table(pl.concat(told).to_arrow().cast(DECISIONS))
            summary.add(kept, rejected)
        summary.sampler = decisions.sampler
        counts = {"documents": before["kept"] + before["rejected"], "quarantined": before["quarantined"]}
        found = summary.finish(counts | before["lines_dropped"], out / "summary.json")
    return {name: found[name] for name in (f"documents_{each}" for each in ("in", "kept", "rejected", "quarantined"))}


def _told_of(documents: pl.DataFrame, kept: bool) -> pl.DataFrame:
    """Columns of decisions.parquet."""
    types = pl.DataFrame(DECISIONS.empty_table()).schema
    there = documents.select(name for name in types if name in documents.columns)
    missing = {name: pl.lit(None, kind) for name, kind in types.items() if name not in there.columns}
    return there.with_columns(**missing | {"kept": pl.lit(kept)}).select(types.names())


def _told(folder: Path) -> dict[str, Any]:
    """The summary of the run that wrote the folder."""
    try:
        found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        for name in TABLES:
            pq.read_schema(folder / f"{name}.parquet").field("divergence")
        return found | {"filtering": Filtering.model_validate(found["filtering"])}
    except (OSError, ValueError, KeyError) as error:
        raise Refusal(
            where="--from-metrics",
            found=f"{folder}: {error}",
            allowed="a folder that `posttrain filter --out` wrote: kept.parquet, rejected.parquet and summary.json",
            remedy="name that folder, or filter the corpus first",
        ) from error


def _refuse_other_texts(before: Filtering, now: Filtering, folder: Path) -> None:
    pairs = {
        "filtering.lines": (before.resolved_lines(), now.resolved_lines(), "lines are dropped while the texts are read"),
        "filtering.variant": (before.variant, now.variant, "words are counted while the texts are read"),
        "filtering.dedup.against": (None, now.dedup.against or before.dedup.against, "what earlier runs kept is not read again"),
        "filtering.dedup.near": (before.dedup.near, now.dedup.near or before.dedup.near, "band hashes are made from the texts"),
    }
    for where, (was, wanted, why) in pairs.items():
        if was != wanted:
            raise Refusal(
                where=where, found=f"{wanted}; {folder} was made with {was}", allowed=f"what it was: {why}",
                remedy="leave it as it was, or filter the corpus again",
            )  # fmt: skip


class _Rows:
    """Some columns of all documents, GROUPS row groups at a time: to decide costs milliseconds, however few they are.

    They are gone through more than once, so that as many as HELD allows stay in memory.
    """

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        self._folder, self._columns = folder, list(columns)
        self._held: list[pl.DataFrame] = []
        self._bytes = 0

    def __iter__(self) -> Iterator[pl.DataFrame]:
        at = 0
        for name in TABLES:
            with pq.ParquetFile(self._folder / f"{name}.parquet") as file:
                for first in range(0, file.num_row_groups, GROUPS):
                    if at < len(self._held):
                        yield self._held[at]
                    else:
                        groups = range(first, min(first + GROUPS, file.num_row_groups))
                        yield self._kept(pl.DataFrame(file.read_row_groups(groups, columns=self._columns)), at)
                    at += 1

    def _kept(self, documents: pl.DataFrame, at: int) -> pl.DataFrame:
        if at == len(self._held) and self._bytes < HELD:
            self._held.append(documents)
            self._bytes += int(documents.estimated_size())
        return documents


def _repeated(folder: Path, filtering: Filtering, rows: _Rows) -> Repeated:
    """What documents repeat under the new rules, and how far they are from the corpus, as `steps.find_repeated` says."""
    values, limit = _diverging(rows, filtering)
    outliers = values["number"][values["value"] > limit]
    all_keys, all_bands, all_urls = [np.empty(0, KEY)], [np.empty(0, BAND)], [np.empty(0, KEY)]
    shape = bands_and_rows(filtering)
    for documents in rows:
        numbers = documents["number"].to_numpy()
        passes = passing(arrays(documents), filtering.resolved()) & score_rules.passing(documents, filtering).to_numpy()
        all_keys.append(keys(together(documents["fingerprint"]), numbers, passes))
        if filtering.dedup.url:
            all_urls.append(url_keys(documents["url"].to_list(), numbers, passes))
        if shape and passes.any():
            hashes = documents["bands"].filter(pl.Series(passes)).explode().to_numpy().reshape(-1, shape[0])
            all_bands.append(band_records(hashes, numbers[passes]))
    by_url = older(np.concatenate(all_urls))
    late, found = np.union1d(by_url["number"], outliers), np.concatenate(all_keys)
    found["passes"] &= ~np.isin(found["number"], late)
    exact = copies(found) if filtering.dedup.exact else np.empty(0, COPY)
    bands = np.concatenate(all_bands)
    gone = np.union1d(late, exact["number"])
    near = _near(folder, filtering, bands[~np.isin(bands["number"], gone)]) if shape else np.empty(0, COPY)
    return Repeated(by_url, exact, near, values, limit)


def _near(folder: Path, filtering: Filtering, bands: Records) -> Records:
    shape, texts = bands_and_rows(filtering), _Texts(folder, filtering).texts
    assert shape
    parts = [verified(some, texts, *shape, filtering.dedup.threshold) for some in clusters(links(bands), AT_ONCE)]
    found = np.concatenate([np.empty(0, COPY), *parts])
    found.sort(order="number")
    return found


def _diverging(rows: _Rows, filtering: Filtering) -> tuple[Records, float]:
    """The divergence of each document as it was told, sorted by number, and the largest that is kept."""
    if filtering.divergence is None:
        return np.empty(0, VALUE), math.inf
    parts = [np.empty(0, VALUE)]
    for documents in rows:
        parts.append(np.empty(documents.height, VALUE))
        parts[-1]["number"], parts[-1]["value"] = documents["number"].to_numpy(), documents["divergence"].to_numpy()
    values = np.concatenate(parts)
    values.sort(order="number")
    return values, divergence.limit(values["value"], filtering.divergence.percentile)


class _Texts:
    """Documents of the folder by number."""

    def __init__(self, folder: Path, filtering: Filtering) -> None:
        files = [folder / f"{name}.parquet" for name in TABLES]
        self._table = pl.concat([pl.scan_parquet(file, glob=False).select("number", "id", "text") for file in files])
        self._filtering, self._often = filtering, repeated_lines.load(folder)

    def _some(self, numbers: Places, column: str) -> list[Any]:
        wanted = pl.Series(numbers)
        found = self._table.filter(pl.col("number").is_in(wanted.implode())).select("number", column).collect()
        values: list[Any] = found.sort("number")[column].to_list()
        return values

    def ids(self, repeated: Repeated) -> Callable[[Places], list[str]]:
        """The identifiers of some documents that others repeat, by number; all are looked up at once."""
        numbers = np.unique(np.concatenate([records["of"] for records in repeated[:3]]))
        names = np.array(self._some(numbers, "id") if len(numbers) else [], object)
        return lambda some: names[np.searchsorted(numbers, some)].tolist()

    def texts(self, numbers: Places) -> Buffers:
        """The texts of some documents, likewise; a rejected one was kept with the lines that a rule takes out."""
        texts = buffers(pa.array(self._some(numbers, "text"), pa.large_string()))
        return described(repeated_lines.without(texts, self._often)[0], self._filtering)[0]
