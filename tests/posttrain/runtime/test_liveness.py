"""Who is alive: processes that end in one way or another, and notes of other machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from posttrain.runtime import liveness
from posttrain.runtime.liveness import is_dead, note_of_this_process, noted, read_note

CHILD = """
import sys, time
from pathlib import Path
from posttrain.runtime.liveness import note_of_this_process, noted
with noted(Path(sys.argv[1]), note_of_this_process("sft", "1")):
    print("noted", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def child(tmp_path, helpers):
    """A process that has noted itself, and the path of its note."""
    path = tmp_path / "note.json"
    command = [sys.executable, "-c", CHILD, str(path)]
    with subprocess.Popen(command, env=helpers.environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "noted\n"
        yield process, path
        process.kill()


def test_a_process_that_works_is_alive_and_one_that_was_killed_is_dead(child):
    process, path = child
    note = read_note(path)
    assert (note.pid, note.what, note.flow_run) == (process.pid, "sft", "1")
    assert not is_dead(path, note)
    process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while not is_dead(path, note) and time.monotonic() < end:  # a zombie counts as dead
        time.sleep(0.05)
    assert is_dead(path, note)
    assert path.exists()


def test_a_note_goes_with_its_work_also_when_that_fails(tmp_path):
    path = tmp_path / "note.json"
    with noted(path, note_of_this_process("sft", None)):
        assert path.exists()
    assert not path.exists()
    with pytest.raises(ValueError, match="broken"), noted(path, note_of_this_process("sft", None)):
        raise ValueError("broken")
    assert not path.exists()


def test_a_note_stays_where_a_signal_ends_the_work(tmp_path):
    path = tmp_path / "note.json"
    with pytest.raises(KeyboardInterrupt), noted(path, note_of_this_process("sft", None)):
        raise KeyboardInterrupt
    assert path.exists()


def test_another_process_with_the_same_id_is_not_the_one_that_was_noted(tmp_path):
    path = tmp_path / "note.json"
    mine = note_of_this_process("sft", None)
    assert not is_dead(path, mine)
    assert is_dead(path, mine.model_copy(update={"started": "1"}))


def test_a_note_of_another_machine_counts_until_it_has_been_silent_for_long(tmp_path):
    path = tmp_path / "note.json"
    path.write_text("{}")
    other = note_of_this_process("sft", None).model_copy(update={"machine": "another"})
    assert not is_dead(path, other)
    os.utime(path, (time.time() - liveness.SILENT_SECONDS - 5,) * 2)
    assert is_dead(path, other)
    path.unlink()
    assert not is_dead(path, other)  # it has ended by itself


def test_a_note_is_kept_fresh(tmp_path, monkeypatch):
    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.02)
    path = tmp_path / "note.json"
    with noted(path, note_of_this_process("sft", None)):
        end = time.monotonic() + 30
        while read_note(path).beat < 2 and time.monotonic() < end:
            time.sleep(0.02)
        assert read_note(path).beat >= 2


@pytest.mark.parametrize("content", ["", "{}", "[1", json.dumps({"pid": "x"})])
def test_what_is_no_note_is_none(tmp_path, content):
    (tmp_path / "note.json").write_text(content)
    assert read_note(tmp_path / "note.json") is None
    assert read_note(tmp_path / "absent.json") is None
