"""Garbage with cycles: not looked for while modules are imported, nor among them later, and as ever otherwise."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest

from posttrain.runtime.garbage import importing, uncollected


class Ring:
    """Refers to itself: only a look for cycles frees it."""

    def __init__(self) -> None:
        self.again = self


@pytest.fixture(autouse=True)
def thawed():
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_inside_and_all_is_afterwards():
    with uncollected():
        assert not gc.isenabled()
        known = weakref.ref(Ring())
        assert known() is not None
    assert gc.isenabled()
    gc.collect()
    assert known() is None


@pytest.mark.parametrize("kind", [uncollected, importing])
def test_what_was_off_before_stays_off(kind):
    gc.disable()
    with kind():
        pass
    assert not gc.isenabled()


@pytest.mark.parametrize("kind", [uncollected, importing])
def test_an_error_turns_it_on_again_and_freezes_nothing(kind):
    with pytest.raises(ZeroDivisionError), kind():
        _ = 1 / 0
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_what_lives_after_imports_is_looked_through_no_more_but_what_is_made_then_is():
    with importing():
        stays = [[] for _ in range(1000)]
    assert gc.get_freeze_count() >= len(stays)
    known = weakref.ref(Ring())
    gc.collect()
    assert known() is None


def test_at_exit_nothing_is_searched_and_what_was_registered_runs():
    """Two rings, one in a process that searches at its end: only there is it found."""
    code = """if True:
        import atexit, sys
        from posttrain.runtime.garbage import unsearched_at_exit
        class Ring:
            def __init__(self): self.again = self
            def __del__(self): print("found")
        if sys.argv[1] == "unsearched":
            unsearched_at_exit()
        atexit.register(print, "registered")
        Ring()
    """
    said = {
        way: subprocess.run([sys.executable, "-c", code, way], capture_output=True, text=True, check=True).stdout.split()
        for way in ("searched", "unsearched")
    }
    assert said == {"searched": ["registered", "found"], "unsearched": ["registered"]}
