"""Locks: who waits is told for whom, and a second user of a store is served or refused, never met by a traceback."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from posttrain.runtime.locks import locked
from posttrain.runtime.progress import Quiet, reporting
from posttrain.runtime.store import Built, StageKey, Store
from posttrain.runtime.trees import is_shared
from schemas.errors import Refusal

IDENTITY = StageKey("sft", 1, {"seed": 0})
OTHER, GROUP = 65_534, 54_321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


class Notes(Quiet):
    """Progress that keeps what a person is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.heard = threading.Event()

    def note(self, text: str) -> None:
        self.said.append(text)
        self.heard.set()


def test_who_waits_is_told_for_whom_and_since_when(tmp_path):
    notes, entered = Notes(), threading.Event()

    def second() -> None:
        with reporting(notes), locked(tmp_path / "key.lock"):
            entered.set()

    with locked(tmp_path / "key.lock"):
        since = json.loads((tmp_path / "key.lock.holder").read_text())["since"]
        thread = threading.Thread(target=second)
        thread.start()
        assert notes.heard.wait(30)
        assert not entered.is_set()
    thread.join(30)
    assert entered.is_set()
    host = os.uname().nodename
    assert notes.said == [f"waiting for process {os.getpid()} on {host} since {since}, which holds {tmp_path}/key.lock"]
    assert os.listdir(tmp_path) == ["key.lock"]


@pytest.mark.parametrize("content", ["", "[1]", '{"pid": "x"}', '{"pid": 1, "host": "\\u001b[2J", "since": {}}'])
def test_what_stands_in_the_holders_file_is_not_trusted(tmp_path, content):
    """A terminal's escape, for one."""
    notes = Notes()
    with locked(tmp_path / "key.lock"):
        (tmp_path / "key.lock.holder").write_text(content)
        thread = threading.Thread(target=lambda: _take(tmp_path / "key.lock", notes))
        thread.start()
        assert notes.heard.wait(30)
    thread.join(30)
    assert notes.said[0].isprintable()


def _take(path: Path, notes: Notes) -> None:
    with reporting(notes), locked(path):
        pass


def test_a_link_in_place_of_a_lock_is_refused_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "key.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(Refusal, match="--store"), locked(tmp_path / "key.lock"):
        pass
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.fixture
def public():
    """A folder that other users can look into, as those of pytest are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def make(folder: Path) -> Built:
    (folder / "weights").write_text("weights")
    return Built({}, {"weights": "weights"})


def as_other(root: Path, identity: StageKey = IDENTITY, umask: int = 0o022) -> str:
    """What another user of the group gets from the store."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_build_as_other, args=(root, identity, umask, queue))
    process.start()
    said = queue.get(timeout=60)
    process.join(60)
    return said


def _build_as_other(root: Path, identity: StageKey, umask: int, queue) -> None:
    os.setgroups([GROUP])
    os.setgid(OTHER)
    os.setuid(OTHER)
    os.umask(umask)
    try:
        queue.put("reused" if Store(root).build(identity, make).reused else "built")
    except Refusal as refusal:
        queue.put(f"refused: {refusal.found}")
    except BaseException as error:
        queue.put(repr(error))


@as_root
def test_a_second_user_reuses_what_he_may_only_read(public):
    """Under umask 022 the lock cannot be opened by him, and need not be."""
    Store(public / "store").build(IDENTITY, make)
    assert as_other(public / "store") == "reused"


@as_root
@pytest.mark.parametrize("seed", [0, 1])
def test_a_second_user_who_may_not_write_is_refused(public, seed):
    """Seed 0 is a damaged result, which he would have to build again; 1 is a new one."""
    stored = Store(public / "store").build(IDENTITY, make)
    (stored.folder / "weights").write_text("damaged")
    said = as_other(public / "store", StageKey("sft", 1, {"seed": seed}))
    assert said == f"refused: {public}/store/sft, in which user {OTHER} may not write (Permission denied)"


@as_root
def test_a_run_is_refused_before_anything_is_paid_for(public):
    Store(public / "store").build(IDENTITY, make)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_require_as_other, args=(public / "store", queue))
    process.start()
    assert queue.get(timeout=60) == f"refused: {public}/store, in which user {OTHER} may not write (Permission denied)"
    process.join(60)


def _require_as_other(root: Path, queue) -> None:
    os.setuid(OTHER)
    try:
        Store(root).require_writable()
    except Refusal as refusal:
        queue.put(f"refused: {refusal.found}")
    except BaseException as error:
        queue.put(repr(error))


@as_root
def test_in_a_store_of_a_group_its_members_build_and_reuse(public, monkeypatch):
    """A folder with the set-group-ID bit: locks and results of one are the other's to take up."""
    store = public / "store"
    store.mkdir()
    os.chown(store, 0, GROUP)
    store.chmod(0o2775)
    assert is_shared(store)
    before = os.umask(0o002)
    try:
        stored = Store(store).build(IDENTITY, make)
    finally:
        os.umask(before)
    (stored.folder / "weights").write_text("damaged")
    assert as_other(store, umask=0o002) == "built"
    assert as_other(store, StageKey("sft", 1, {"seed": 1}), umask=0o002) == "built"
    lock = Path(f"{stored.folder}.lock")
    assert stat.S_IMODE(lock.stat().st_mode) == 0o664
    assert Store(store).build(StageKey("sft", 1, {"seed": 1}), make).reused
