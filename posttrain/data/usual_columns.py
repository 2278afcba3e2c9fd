"""What `usual.py` makes of rows, of whole columns: the common layouts of messages and of transcripts.

Each function takes the columns of some rows and says which of them it makes something of; the others go row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from posttrain.data.messages import NORMAL
from posttrain.data.shapes import Columnar, Made, Taken
from posttrain.data.usual import MAY_BE_MORE
from posttrain.text.buffers import Buffers, buffers
from posttrain.text.kernels import transcripts
from posttrain.text.kernels.characters import flags
from posttrain.text.kernels.compiling import COMPILED
from schemas.messages import MESSAGE

TEXT: Final = pa.large_string()
TALK: Final = pa.list_(pa.struct([("role", TEXT), ("content", TEXT)]))
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Talks:
    """A column of lists of messages."""

    starts: Places
    """Of each row among all messages, shape (rows,)."""
    ends: Places
    roles: pa.Array
    contents: pa.Array
    usual: Taken
    """Rows with messages, all of them plain, shape (rows,)."""

    def messages(self, places: Places, counts: Places) -> pa.Array:
        """Some of the messages, so many of them for each list."""
        return message_lists(
            np.concatenate([[0], np.cumsum(counts)]),
            pc.take(self.roles, pa.array(places)),
            pc.take(self.contents, pa.array(places)),
        )


def message_lists(ends: Places, roles: pa.Array, contents: pa.Array, extra: pa.Array | None = None) -> pa.Array:
    """Lists of messages that end behind each other; `ends` begins with 0."""
    fields = {"role": roles, "content": contents, "extra": pa.nulls(len(roles), TEXT) if extra is None else extra}
    order = [field.name for field in MESSAGE.fields]
    return pa.LargeListArray.from_arrays(ends, pa.StructArray.from_arrays([fields[name] for name in order], order))


def of_one(role: str, contents: pa.Array) -> pa.Array:
    """A list of one message for each text."""
    return message_lists(np.arange(len(contents) + 1, dtype=np.int64), pa.repeat(pa.scalar(role, TEXT), len(contents)), contents)


def talks(column: pa.Array) -> Talks:
    """Reads a column of the type TALK."""
    offsets = np.asarray(column.offsets).astype(np.int64)
    roles, contents = column.values.field("role"), column.values.field("content")
    plain = pc.and_(pc.is_in(roles, pa.array(sorted(NORMAL), TEXT)), pc.is_valid(contents)).to_numpy(zero_copy_only=False)
    system = np.flatnonzero(pc.fill_null(pc.equal(roles, "system"), False).to_numpy(zero_copy_only=False) & plain)
    plain[system] = [bool(said.strip()) for said in pc.take(contents, pa.array(system)).to_pylist()]
    odd = np.concatenate([[0], np.cumsum(~plain)])
    usual = column.is_valid().to_numpy(zero_copy_only=False) & (odd[offsets[1:]] == odd[offsets[:-1]]) & (np.diff(offsets) > 0)
    return Talks(offsets[:-1], offsets[1:], roles, contents, usual)


def spread(starts: Places, counts: Places) -> Places:
    """The places of so many neighbours from each start on."""
    behind = np.cumsum(counts)
    return np.arange(int(behind[-1]) if len(behind) else 0) + np.repeat(starts - behind + counts, counts)


def conversation(column: str) -> Columnar:
    """Of rows whose whole conversation stands in one column."""

    def columnar(given: Mapping[str, pa.Array]) -> Made | None:
        if given[column].type != TALK:
            return None
        talk = talks(given[column])
        starts, last = talk.starts[talk.usual], talk.ends[talk.usual] - 1
        prompt = talk.messages(spread(starts, last - starts), last - starts)
        return talk.usual, {"prompt": prompt, "completion": talk.messages(last, np.ones_like(last))}

    return columnar


def pair(prompt: str) -> Columnar:
    """Of rows with `chosen` and `rejected`; `prompt` is the column of the prompt, empty where the sides carry it."""

    def columnar(given: Mapping[str, pa.Array]) -> Made | None:
        kinds = {given[side].type for side in ("chosen", "rejected")}
        if kinds == {TEXT}:
            return None if prompt or not COMPILED else _transcripts(given["chosen"], given["rejected"])
        if kinds != {TALK} or (prompt and given[prompt].type != TEXT):
            return None
        return _carrying(talks(given["chosen"]), talks(given["rejected"]), given[prompt] if prompt else None)

    return columnar


def _carrying(good: Talks, bad: Talks, prompt: pa.Array | None) -> Made:
    """Sides that differ in their last message alone, and have one before it, which is not the assistant's."""
    counts = good.ends - good.starts - 1
    taken = good.usual & bad.usual & (counts > 0) & (bad.ends - bad.starts - 1 == counts)
    if prompt is not None:
        asks = pl.Series(prompt)
        taken &= (~asks.str.contains(MAY_BE_MORE) & (asks != "")).fill_null(False).to_numpy()
    counts = np.where(taken, counts, 0)
    asked, other = spread(good.starts, counts), spread(bad.starts, counts)
    same = _equal(good.roles, asked, bad.roles, other) & _equal(good.contents, asked, bad.contents, other)
    odd = np.concatenate([[0], np.cumsum(~same)])
    behind = np.cumsum(counts)
    taken &= odd[behind] == odd[behind - counts]
    first = np.where(taken, good.starts, 0)
    opens = pc.equal(pc.take(good.roles, pa.array(first)), "assistant") if len(good.roles) else pa.nulls(len(first), pa.bool_())
    taken &= ~pc.fill_null(opens, True).to_numpy(zero_copy_only=False)
    kept, ones = counts[taken], np.ones(int(taken.sum()), np.int64)
    sides = {name: side.messages(side.ends[taken] - 1, ones) for name, side in (("chosen", good), ("rejected", bad))}
    return taken, {"prompt": good.messages(spread(good.starts[taken], kept), kept), **sides}


def _equal(one: pa.Array, places: Places, other: pa.Array, others: Places) -> Taken:
    found: Taken = pc.equal(pc.take(one, pa.array(places)), pc.take(other, pa.array(others))).to_numpy(zero_copy_only=False)
    return found.astype(np.bool_)


def _transcripts(chosen: pa.Array, rejected: pa.Array) -> Made:
    """HH: two dialogues that differ in what the assistant says last."""
    good, bad = buffers(pc.fill_null(chosen, "")), buffers(pc.fill_null(rejected, ""))
    rows, room = good.documents, int(good.offsets[-1] - good.offsets[0]) // transcripts.FEWEST + 1
    taken, counts, said = np.zeros(rows, np.uint8), np.zeros(rows, np.int64), np.zeros((rows, 4), np.int64)
    starts, ends, users = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.uint8)
    used = transcripts.pairs(*good, *bad, flags(), taken, counts, starts, ends, users, said)
    kept = taken.astype(np.bool_)
    roles = pa.DictionaryArray.from_arrays(pa.array(users[:used].astype(np.int8)), pa.array(["assistant", "user"], TEXT))
    prompt = message_lists(
        np.concatenate([[0], np.cumsum(counts[kept])]), roles.dictionary_decode(), _cut(good, starts[:used], ends[:used])
    )
    first, end, other, other_end = said[kept].T
    sides = {"chosen": of_one("assistant", _cut(good, first, end)), "rejected": of_one("assistant", _cut(bad, other, other_end))}
    return kept, {"prompt": prompt, **sides}


def _cut(texts: Buffers, starts: Places, ends: Places) -> pa.Array:
    """The texts of some spans."""
    offsets = np.concatenate([[0], np.cumsum(ends - starts)]).astype(np.int64)
    out = np.empty(int(offsets[-1]), np.uint8)
    transcripts.cut(texts.data, np.ascontiguousarray(starts), np.ascontiguousarray(ends), out)
    return pa.LargeStringArray.from_buffers(len(starts), pa.py_buffer(offsets), pa.py_buffer(out))
