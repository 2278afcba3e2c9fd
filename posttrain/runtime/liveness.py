"""Whether the process that does a piece of work still lives: it says so in a file that it keeps fresh.

A process id alone says too little: the machine may have been restarted, another process may have got the id, and the reader may
sit on another machine or in another container.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from posttrain.runtime.remote import documents
from schemas.deployed import ProcessNote

BEAT_SECONDS = 10.0
SILENT_SECONDS = 600.0  # without a beat, after which a process of another machine counts as dead
NOTE_BYTES = 4096


def note_of_this_process(what: str, flow_run: str | None) -> ProcessNote:
    """The note of the process that calls."""
    return ProcessNote(
        what=what,
        flow_run=flow_run,
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        started=_started(os.getpid()),
    )


@contextmanager
def noted(path: Path, note: ProcessNote) -> Iterator[None]:
    """Keep a note fresh inside. A process that is killed, or ends by a signal, leaves it behind: others see that it is dead."""
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(BEAT_SECONDS):
            count += 1
            with suppress(Exception):  # a full disk, say: the work itself will say so
                documents.write(path, note.model_copy(update={"beat": count}).model_dump_json())

    documents.write(path, note.model_dump_json())
    thread = threading.Thread(target=beat, daemon=True, name="liveness")
    thread.start()
    by_signal = True
    try:
        yield
        by_signal = False
    except Exception:
        by_signal = False
        raise
    finally:
        over.set()
        thread.join()
        if not by_signal:
            documents.remove(path)


def read_note(path: Path) -> ProcessNote | None:
    """The note at a place, or None where there is none that can be read."""
    found = documents.read(path, NOTE_BYTES)
    try:
        return ProcessNote.model_validate_json(found) if found else None
    except ValueError:
        return None


def is_dead(path: Path, note: ProcessNote) -> bool:
    """Whether the process of a note has ended without removing it.

    On its own machine that is certain. Of another machine, or of another container, it is taken for dead when its note has not
    been renewed for `SILENT_SECONDS`; clocks of machines that share a store agree better than that.
    """
    if note.machine == _machine():
        return has_ended(note)
    silent = documents.age(path)
    return silent is not None and silent > SILENT_SECONDS  # where it is gone, the process has ended by itself


def has_ended(note: ProcessNote) -> bool:
    """Whether the process of a note was one of this machine, and has ended; of another machine that cannot be told so."""
    return note.machine == _machine() and _started(note.pid) != note.started


def _machine() -> str:
    """The boot of the system and the namespace of process ids; the host's name where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str:
    """When a process began, in ticks since the boot; empty where no such process runs, a zombie included."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _without_proc(pid)
    return "" if state in "ZX" else fields[18]


def _without_proc(pid: int) -> str:
    if Path("/proc/self").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"
