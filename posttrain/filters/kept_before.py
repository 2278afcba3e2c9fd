"""What earlier runs kept: a folder that each run looks at, and adds a part of its own to (`filtering.dedup.against`).

    AGAINST/00000-0123456789abcdef/keys.npy         fingerprints of the documents that a run kept
    AGAINST/00000-0123456789abcdef/bands.npy        their band hashes
    AGAINST/00000-0123456789abcdef/documents.arrow  their numbers, identifiers and texts, compressed
    AGAINST/00000-0123456789abcdef/part.json        bands and rows of the MinHash

A part is named after its place and the run: the documents that it read and the rules. A run looks only at the parts before its
own, so one that is repeated finds what it found the first time, and does not meet itself. Documents of part n have the numbers
FIRST + (n << FILE_BITS) and so on: below those of every file, so that they come first and stay.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.filters.plan import FILE_BITS, Plan
from posttrain.runtime.locks import locked
from posttrain.runtime.writing import replacing, write_atomically
from posttrain.text.copies import KEY, keys, together
from posttrain.text.near import BAND, band_records
from schemas.errors import Refusal

DOCUMENTS: Final = "documents.arrow"
FIRST: Final = -(1 << 62)
ROWS: Final = 1_000  # of a batch: what is read, and decompressed, to compare one document
_SCHEMA = pa.schema({"number": pa.int64(), "id": pa.string(), "text": pa.large_string()})
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd")


def place_of(file: int, parts: Sequence[Path]) -> Path:
    """The part that a number belongs to, of which `file` are the bits above FILE_BITS."""
    return next(part for part in parts if _place(part) == file - (FIRST >> FILE_BITS))


def look_at(plan: Plan) -> None:
    """Write down which parts this run looks at, once the documents are annotated and unless it is known.

    Raises:
        Refusal: when the folder holds something else, or its MinHash has another shape.
    """
    told = plan.work / "earlier.json"
    if plan.filtering.dedup.against is None or told.exists():
        return
    parts = _before(parts_of(Path(plan.filtering.dedup.against).expanduser()), _identity(plan))
    shape = plan.filtering.dedup.near
    for part in parts:
        was = json.loads((part / "part.json").read_text())["near"]
        if shape is not None and was != shape:
            raise Refusal(
                where="filtering.dedup.near",
                found=f"{shape}; {part} was made with {was}",
                allowed="one shape of bands and rows for all runs that share a folder `dedup.against`",
                remedy=f"take {was}, or another folder",
            )
    write_atomically(told, json.dumps(list(map(str, parts))))


def add_kept(plan: Plan, kept: Path) -> None:
    """Add what this run kept as a part, unless it is there."""
    if plan.filtering.dedup.against is None:
        return
    folder, identity = Path(plan.filtering.dedup.against).expanduser(), _identity(plan)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):  # no two runs may take one place
        known = parts_of(folder)
        if any(part.name.endswith(identity) for part in known):
            return
        place = _place(known[-1]) + 1 if known else 0
        with replacing(folder / f"{place:05d}-{identity}") as scratch:
            scratch.mkdir()
            _write(plan, kept, scratch, FIRST + (place << FILE_BITS))


def _write(plan: Plan, kept: Path, part: Path, number: int) -> None:
    prints, bands = [np.empty(0, KEY)], [np.empty(0, BAND)]
    with pq.ParquetFile(kept) as file, pa.ipc.new_file(part / DOCUMENTS, _SCHEMA, options=_COMPRESSED) as writer:
        for batch in file.iter_batches(batch_size=ROWS, columns=["id", "text", "fingerprint", "bands"]):
            documents = pl.DataFrame(batch)
            numbers = number + np.arange(documents.height)
            number += documents.height
            writer.write_table(documents.select(pl.Series("number", numbers), "id", "text").to_arrow().cast(_SCHEMA))
            prints.append(keys(together(documents["fingerprint"]), numbers, np.ones(documents.height, bool)))
            if plan.bands:
                bands.append(band_records(documents["bands"].explode().to_numpy().reshape(-1, plan.bands[0]), numbers))
    np.save(part / "keys.npy", np.sort(np.concatenate(prints), order=["high", "low", "number"]))
    np.save(part / "bands.npy", np.sort(np.concatenate(bands), order=["hash", "number"]))
    (part / "part.json").write_text(json.dumps({"near": plan.filtering.dedup.near}))


def parts_of(folder: Path) -> list[Path]:
    """The parts of a folder in their order; none where it is not there."""
    if not folder.exists():
        return []
    parts = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    strange = [path.name for path in parts if not (path / "part.json").is_file()]
    if strange:
        raise Refusal(
            where="filtering.dedup.against",
            found=f"{folder}, which holds {strange[0]}",
            allowed="a folder that earlier runs wrote as `dedup.against`, or one that is not there yet",
            remedy="name a folder of its own",
        )
    return parts


def _before(parts: list[Path], identity: str) -> list[Path]:
    names = [part.name.partition("-")[2] for part in parts]
    return parts[: names.index(identity)] if identity in names else parts


def _place(part: Path) -> int:
    return int(part.name.partition("-")[0])


def _identity(plan: Plan) -> str:
    """Of the documents that were read, whatever the files, and of the rules."""
    total: Any = np.zeros(3, np.uint64)
    for piece in plan.runs("keys"):
        total += np.array([piece["high"].sum(dtype=np.uint64), piece["low"].sum(dtype=np.uint64), len(piece)], np.uint64)
    rules = plan.filtering.model_dump(mode="json")
    rules["dedup"].pop("against")
    return hashlib.sha256(json.dumps([total.tolist(), plan.given, rules], sort_keys=True).encode()).hexdigest()[:16]
