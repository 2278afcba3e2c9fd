"""A full disk: the message names path and space, the last checkpoint stays."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from posttrain.peft.wrap import trainable_state
from posttrain.runtime.disk import DiskFull, size_of, writing
from posttrain.training.checkpoint import Position, load_checkpoint, save_best, save_checkpoint


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Within, files end after so many bytes, as on a full disk, which is said to have that much room.

    pytest's own output may go to a file, so the limit ends before the test does.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - size, size))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_does_not_fit_says_how_much_room_it_needs_and_leaves_the_last_one(tiny_llama, tmp_path):
    """The weights fit; the optimizer's state, twice as large, does not, and torch speaks of an unexpected position."""
    model = tiny_llama()
    optimizer = torch.optim.AdamW(trainable_state(model).values(), lr=0.01)
    model(torch.arange(9)[None]).logits.sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path, model, optimizer, Position(step=1))
    weights = size_of(trainable_state(model))
    message = rf"disk full: {tmp_path}/writing needs {3 * weights / 1e6:.1f} MB, and {1.5 * weights / 1e6:.1f} MB are free"
    with pytest.raises(DiskFull, match=message), full_disk(int(1.5 * weights)):
        save_checkpoint(tmp_path, model, optimizer, Position(step=2))
    assert sorted(os.listdir(tmp_path)) == ["000000001"]
    assert load_checkpoint(tmp_path, model, optimizer).step == 1


def test_the_best_weights_that_do_not_fit_say_so_too(tiny_llama, tmp_path):
    model = tiny_llama()
    with pytest.raises(DiskFull, match=r"needs .* MB, and 0\.0 MB are free"), full_disk(1000):
        save_best(tmp_path, model, 3)
    assert not list((tmp_path / "best").iterdir())


def test_another_error_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="something else"), writing(tmp_path / "file", {"a": torch.zeros(3)}):
        raise RuntimeError("something else")
