"""Leases in a bucket: one holder, those who wait are told, and who is dead or silent loses it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from posttrain.runtime.liveness import note_of_this_process
from posttrain.runtime.progress import Quiet, reporting
from posttrain.runtime.remote import lease
from posttrain.runtime.remote.bucket import Bucket
from posttrain.runtime.remote.lease import leased

NAME = "sft/k.lease"


class Heard(Quiet):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def bucket(s3, monkeypatch) -> Bucket:
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    return Bucket("s3://posttrain/runs")


def holds(bucket: Bucket, machine: str = "another machine", **more) -> None:
    """Write the lease of a process as it would itself."""
    note = note_of_this_process("sft", None).model_copy(update={"machine": machine, "host": "elsewhere", **more})
    bucket.write(NAME, note.model_dump_json().encode())


def test_it_is_there_inside_and_gone_afterwards(bucket):
    with leased(bucket, NAME, "sft"):
        assert bucket.size(NAME)
    assert bucket.size(NAME) is None


def test_eight_at_once_take_turns(bucket):
    inside, most, lock = [], [], threading.Lock()

    def hold() -> None:
        with leased(bucket, NAME, "sft"):
            with lock:
                inside.append(1)
                most.append(len(inside))
            time.sleep(0.02)
            with lock:
                inside.pop()

    threads = [threading.Thread(target=hold) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert most == [1] * 8


def test_who_waits_is_told_for_whom(bucket):
    holds(bucket)
    heard = Heard()
    threading.Timer(0.5, lambda: bucket.delete([NAME])).start()
    with reporting(heard), leased(bucket, NAME, "sft"):
        pass
    assert len(heard.said) == 1
    assert heard.said[0].startswith("waiting for process ")
    assert "on elsewhere, which holds s3://posttrain/runs/sft/k.lease" in heard.said[0]


def test_a_dead_process_of_this_machine_loses_it_at_once(bucket):
    """The note is of a process that has really ended."""
    code = (
        "import sys; from posttrain.runtime.liveness import note_of_this_process;"
        "sys.stdout.write(note_of_this_process('sft', None).model_dump_json())"
    )
    bucket.write(NAME, subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    heard = Heard()
    with reporting(heard), leased(bucket, NAME, "sft"):
        assert "is dead" in heard.said[0]


def test_a_silent_holder_of_another_machine_loses_it_by_the_clock_of_the_service(bucket, monkeypatch):
    monkeypatch.setattr(lease, "STALE_SECONDS", 1.0)
    holds(bucket)
    began = time.monotonic()
    with leased(bucket, NAME, "sft"):
        assert 0.9 < time.monotonic() - began < 20


def test_a_holder_that_lives_is_not_taken_for_silent(bucket, monkeypatch):
    """It renews it every 0.1 s here; the other one waits for 3 s, of which it may be silent for 2."""
    monkeypatch.setattr(lease, "STALE_SECONDS", 2.0)
    got = []

    def wait() -> None:
        with leased(bucket, NAME, "sft"):
            got.append(time.monotonic())

    with leased(bucket, NAME, "sft"):
        other = threading.Thread(target=wait)
        other.start()
        time.sleep(3.5)
        assert not got
    other.join()
    assert got


def test_who_lost_it_does_not_take_it_away_from_the_next(bucket):
    with leased(bucket, NAME, "sft"):
        holds(bucket)
        time.sleep(0.5)
    assert bucket.size(NAME)
