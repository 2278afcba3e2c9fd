"""Cached folders are what was put there, or are made anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from posttrain.runtime.cached_folder import cached_folder

MADE: list[int] = []


def make(scratch: Path) -> Path:
    (scratch / "whole" / "sub").mkdir(parents=True)
    (scratch / "whole" / "weights").write_text("weights")
    (scratch / "whole" / "sub" / "config").write_text("{}")
    (scratch / "beside").write_text("")
    MADE.append(1)
    return scratch / "whole"


@pytest.fixture
def folder(tmp_path) -> Path:
    MADE.clear()
    return cached_folder(tmp_path / "cache" / "a", make)


def test_it_is_made_once_and_nothing_else_stays(folder):
    assert cached_folder(folder, make) == folder
    assert (MADE, sorted(os.listdir(folder)), sorted(os.listdir(folder.parent))) == (
        [1],
        ["sub", "weights"],
        ["a", "a.json", "a.lock"],
    )


def again(folder: Path, content: str) -> None:
    """Other bytes under the same size and time."""
    before = (folder / "weights").stat()
    (folder / "weights").unlink()
    (folder / "weights").write_text(content)
    os.utime(folder / "weights", ns=(before.st_atime_ns, before.st_mtime_ns))


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize(
    "change",
    [
        lambda f: again(f, "wei9hts"),
        lambda f: (f / "weights").unlink(),
        lambda f: (f / "delta.py").write_text(""),
        lambda f: (f / "link").symlink_to("/etc"),
        pipe,
        lambda f: f.with_name("a.json").unlink(),
        lambda f: f.with_name("a.json").write_text("[]"),
        lambda f: (f.rename(f.with_name("b")), f.symlink_to(f.with_name("b"))),
    ],
)
def test_what_was_changed_is_made_again(folder, change):
    change(folder)
    assert cached_folder(folder, make) == folder
    assert (len(MADE), (folder / "weights").read_text(), folder.is_symlink()) == (2, "weights", False)
    assert not (folder / "delta.py").exists()


def test_a_failure_leaves_nothing(tmp_path):
    def fail(scratch: Path) -> Path:
        (scratch / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder(tmp_path / "a", fail)
    assert os.listdir(tmp_path) == ["a.lock"]
