"""One run per GPU: which cards a process may use, and that two do not hold the same."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack

import pytest

from posttrain.runtime import gpus
from posttrain.runtime.gpus import own_gpus, visible_gpus
from schemas.errors import Refusal
from schemas.recipe import Compute

DRIVER = """#!/bin/sh
echo GPU-aa
echo GPU-bb
"""


@pytest.fixture
def two_cards(tmp_path, monkeypatch):
    """A host whose driver lists two cards."""
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.write_text(DRIVER)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    monkeypatch.setattr(gpus, "POLL_SECONDS", 0.05)
    (tmp_path / "locks").mkdir()
    return tmp_path / "locks"


def test_cards_are_named_by_uuid_also_where_the_environment_gives_their_numbers(two_cards, monkeypatch):
    assert visible_gpus() == ("GPU-aa", "GPU-bb")
    monkeypatch.setenv(gpus.VISIBLE, "1")
    assert visible_gpus() == ("GPU-bb",)
    monkeypatch.setenv(gpus.VISIBLE, "GPU-aa, MIG-cc")
    assert visible_gpus() == ("GPU-aa", "MIG-cc")
    monkeypatch.setenv(gpus.VISIBLE, "")
    assert visible_gpus() == ()


def test_two_runs_get_a_card_each_and_a_third_waits_for_one(two_cards):
    with ExitStack() as runs:
        first = runs.enter_context(own_gpus(Compute(), two_cards))
        assert os.environ.pop(gpus.VISIBLE) == first[0]  # each is a process with an environment of its own
        last = runs.enter_context(own_gpus(Compute(), two_cards))
        assert os.environ.pop(gpus.VISIBLE) == last[0]
        assert {*first, *last} == {"GPU-aa", "GPU-bb"}
        got: list = []

        def third() -> None:
            with own_gpus(Compute(), two_cards) as held:
                got.append(held)

        thread = threading.Thread(target=third)
        thread.start()
        time.sleep(0.3)
        assert got == []
        os.environ[gpus.VISIBLE] = ""  # what the runs take back when they end
    thread.join(timeout=30)
    assert len(got) == 1


def test_a_run_in_several_processes_holds_as_many_and_is_refused_more(two_cards):
    with own_gpus(Compute(num_processes=2), two_cards) as held:
        assert held == ("GPU-aa", "GPU-bb")
    with pytest.raises(Refusal, match="a host with 2 GPUs"), own_gpus(Compute(num_processes=3), two_cards):
        pass


def test_what_trains_on_the_cpu_holds_none(two_cards):
    with own_gpus(Compute(device="cpu"), two_cards) as held:
        assert held == ()
    assert gpus.VISIBLE not in os.environ
