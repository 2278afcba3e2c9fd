"""A process that trains alone agrees with itself; tests/posttrain/training/launch/test_launcher.py tests what several do."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch

import posttrain.runtime.distributed as distributed
from posttrain.runtime.distributed import (
    any_process,
    from_main,
    full,
    gathered,
    is_main,
    sharded_like,
    summed,
    termination,
    turns,
)
from posttrain.runtime.interruption import Terminated, owned_signals


def test_alone():
    ones = torch.ones(2)
    assert is_main()
    assert from_main("a") == "a"
    assert gathered("a") == ["a"]
    assert any_process(True, False) == (True, False)
    assert summed(ones) is ones
    assert full(ones) is ones
    assert sharded_like(ones, ones) is ones
    assert list(turns("abc")) == [(0, True, "a"), (1, True, "b"), (2, True, "c")]


@pytest.mark.parametrize(
    ("rank", "expected"),
    [(0, [(0, True), (3, True)]), (1, [(1, True), (4, True)]), (2, [(2, True), (4, False)])],
)
def test_in_the_last_turn_a_process_without_work_repeats_what_does_not_count(rank, expected, monkeypatch):
    """Five pieces for three processes."""
    monkeypatch.setattr(distributed, "size", lambda: 3)
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    assert [(index, counts) for index, counts, _ in turns("abcde")] == expected


def nothing() -> None:
    """Says nothing when a signal comes."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_alone_signals_are_left_to_whoever_handles_them(number):
    """The process may be a Prefect worker, which has its own way of ending."""
    before = signal.getsignal(number)
    with termination(nothing) as asked:
        assert signal.getsignal(number) is before
        assert not asked()


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_alone_a_signal_of_an_entry_point_that_owns_it_acts_at_the_end(number, raised):
    told, before, seen = threading.Event(), signal.getsignal(number), []

    def interrupted() -> None:
        with owned_signals(), termination(told.set) as asked:
            os.kill(os.getpid(), number)
            seen.extend([asked(), told.wait(10)])

    with pytest.raises(raised):
        interrupted()
    assert seen == [True, True]
    assert signal.getsignal(number) is before


def test_alone_a_signal_that_is_ignored_stays_ignored():
    """A shell starts what runs in its background so."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with owned_signals(), termination(nothing) as asked:
            signal.raise_signal(signal.SIGINT)
            assert not asked()
    finally:
        signal.signal(signal.SIGINT, before)


def test_together_sigterm_is_a_flag(monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    before = signal.getsignal(signal.SIGTERM)
    with termination(nothing) as asked:
        assert not asked()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
    assert signal.getsignal(signal.SIGTERM) is before
