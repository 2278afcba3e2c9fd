"""Damaged bytes, in every container: rows come out or are reported, or the file is refused by name; nothing else is raised."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.data.collect import collect
from posttrain.data.kinds import KINDS
from posttrain.data.sources import SourceFile
from schemas.errors import Refusal

ROWS = [{"prompt": f"question {at}?", "chosen": f"yes, né {at}", "rejected": f"no {at}"} for at in range(40)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
CASES = int(os.environ.get("FUZZ_CASES", "25"))  # of each container; 1,000 were tried once


def parquet(**options) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=16, **options)
    return sink.getvalue()


def arrow(new, **options) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(ROWS)
    with new(sink, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=16)
    return sink.getvalue()


CONTAINERS = {
    "x.jsonl": LINES,
    "x.jsonl.gz": gzip.compress(LINES),
    "x.jsonl.zst": zstandard.compress(LINES),
    "x.jsonl.bz2": bz2.compress(LINES),
    "x.jsonl.xz": lzma.compress(LINES),
    "utf16.jsonl": LINES.decode().encode("utf-16"),
    "array.json": json.dumps(ROWS).encode(),
    "pretty.jsonl": "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
    "wrapped.json": json.dumps({"data": ROWS}).encode(),
    "columns.json": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}).encode(),
    "x.csv": b"prompt,chosen,rejected\n" + "".join(f'"{r["prompt"]}","{r["chosen"]}",no\n' for r in ROWS).encode(),
    "x.parquet": parquet(),
    "plain.parquet": parquet(compression="none", use_dictionary=False, write_statistics=False),
    "file.arrow": arrow(pa.ipc.new_file),
    "stream.arrow": arrow(pa.ipc.new_stream),
    "compressed.arrow": arrow(pa.ipc.new_stream, options=pa.ipc.IpcWriteOptions(compression="zstd")),
}
Change = tuple[str, float, int]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "drop", "insert", "cut", "zeros"]), st.floats(0, 1, exclude_max=True), st.integers(0, 255)
    ),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, changes: list[Change]) -> bytes:
    for what, where, value in changes:
        at = int(where * len(content))
        before, after = content[:at], content[at:]
        content = {
            "flip": before + bytes([(after[:1] or b"\0")[0] ^ (value or 1)]) + after[1:],
            "drop": before + after[1 + value % 9 :],
            "insert": before + bytes([value]) * (1 + value % 5) + after,
            "cut": before,
            "zeros": before + b"\0" * min(len(after), 1 + value % 16) + after[1 + value % 16 :],
        }[what]
    return content


def examined(path: Path, keep: bool) -> tuple | Refusal:
    try:
        return collect(KINDS["preferences"], [SourceFile(path.name, str(path))], keep)
    except Refusal as refusal:
        return refusal


@pytest.mark.parametrize("name", CONTAINERS)
@settings(max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(changes=CHANGES, keep=st.booleans())
def test_damage_costs_rows_or_refuses_the_file_and_raises_nothing_else(name, changes, keep):
    content = damaged(CONTAINERS[name], changes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        outcome = examined(path, keep)
    if isinstance(outcome, Refusal):
        assert outcome.where.split(":")[0] == name
        assert outcome.remedy
    else:
        table, bad, rows_in = outcome
        assert rows_in == table.height + len(bad)
        assert {each.file for each in bad} <= {name}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_file_that_is_cut_anywhere_never_passes_for_a_whole_one(tmp_path, name):
    """But where rows are separated by nothing but newlines: there a cut between them, or in the last cell, cannot be seen."""
    content = CONTAINERS[name]
    unseen = name in ("x.jsonl", "utf16.jsonl", "pretty.jsonl", "x.csv")
    path = tmp_path / name
    for cut in range(1, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:cut])
        outcome = examined(path, keep=False)
        if isinstance(outcome, Refusal):
            assert re.search(r"row|byte|begins with|not Arrow|not Parquet|columns", f"{outcome.where} {outcome.found}")
        else:
            assert unseen
            assert outcome[2] < len(ROWS) or name == "x.csv"
