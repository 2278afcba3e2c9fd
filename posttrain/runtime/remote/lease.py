"""A lock between machines that share nothing but a bucket: an object that one of them can make, and that it keeps fresh.

Who dies without giving it back loses it: at once where its process is known to be dead, else after `STALE_SECONDS` by the clock
of the service. A holder that was away for longer, as with its network, loses it too; the one that took over then builds the same
result, and the first that finishes counts. A lease saves work, then, and no result depends on it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from posttrain.runtime.liveness import has_ended, note_of_this_process
from posttrain.runtime.progress import current
from posttrain.runtime.remote.bucket import Bucket, Object, Taken
from schemas.deployed import ProcessNote

BEAT_SECONDS = 20.0
STALE_SECONDS = 180.0
POLL_SECONDS = 2.0


@dataclass
class _Held:
    etag: str
    lost: bool = False


@contextmanager
def leased(bucket: Bucket, name: str, what: str) -> Iterator[None]:
    """Hold the lease `name` inside; whoever has to wait is told for whom. `what` it is for is told to others."""
    note = note_of_this_process(what, None)
    held = _Held(_acquire(bucket, name, note))
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(bucket, name, note, held, over), daemon=True, name="lease")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if not held.lost:
            with suppress(Exception):  # it goes stale by itself
                bucket.delete([name])


def _acquire(bucket: Bucket, name: str, note: ProcessNote) -> str:
    told = False
    while True:
        try:
            there = bucket.read(name)
            if there is None:
                return bucket.create(name, _written(note))
            if why := _is_free(there):
                current().note(f"{bucket.address}/{name} is taken over: {why}")
                return bucket.replace(name, _written(note), there.etag)
        except Taken:
            continue
        if not told:
            current().note(f"waiting for {_who(there)}, which holds {bucket.address}/{name}")
            told = True
        time.sleep(POLL_SECONDS)


def _is_free(there: Object) -> str | None:
    """Why a lease that is there has no holder any more."""
    holder = _holder(there)
    if holder and has_ended(holder):
        return f"process {holder.pid} of this machine is dead"
    return f"no sign of {_who(there)} for {there.age:.0f} s" if there.age > STALE_SECONDS else None


def _beat(bucket: Bucket, name: str, note: ProcessNote, held: _Held, over: threading.Event) -> None:
    count = 0
    while not over.wait(BEAT_SECONDS):
        count += 1
        try:
            held.etag = bucket.replace(name, _written(note, count), held.etag)
        except Taken:
            held.lost = True
            return
        except Exception:  # noqa: S112 - an outage: the next beat may come through
            continue


def _written(note: ProcessNote, count: int = 0) -> bytes:
    return note.model_copy(update={"beat": count}).model_dump_json().encode()


def _holder(there: Object) -> ProcessNote | None:
    try:
        return ProcessNote.model_validate_json(there.content)
    except ValueError:
        return None


def _who(there: Object) -> str:
    holder = _holder(there)
    return f"process {holder.pid} on {json.dumps(holder.host[:64])[1:-1]}" if holder else "another process"
