"""A process that trains alone agrees with itself; what several do is tested by tests/posttrain/trainers/test_launch.py."""

from __future__ import annotations

import os
import signal

import pytest
import torch

import posttrain.distributed as distributed
from posttrain.distributed import any_process, from_main, full, gathered, is_main, sharded_like, summed, termination, turns


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


def test_alone_sigterm_is_left_to_whoever_handles_it():
    """The process may be a Prefect worker, which has its own way of ending."""
    before = signal.getsignal(signal.SIGTERM)
    with termination() as asked:
        assert signal.getsignal(signal.SIGTERM) is before
        assert not asked()


def test_together_sigterm_is_a_flag(monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    before = signal.getsignal(signal.SIGTERM)
    with termination() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
    assert signal.getsignal(signal.SIGTERM) is before
