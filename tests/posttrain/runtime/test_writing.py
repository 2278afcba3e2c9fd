"""Files appear whole or not at all, and never through a link."""

from __future__ import annotations

import os

import pytest

from posttrain.runtime.writing import replacing, write_atomically


def test_a_link_that_waits_under_a_name_of_ours_is_not_written_through(tmp_path):
    """The name of the scratch file was the file's with `.tmp`."""
    (tmp_path / "victim").write_text("mine")
    for name in (".summary.json.tmp", "summary.json"):
        (tmp_path / name).symlink_to(tmp_path / "victim")
    write_atomically(tmp_path / "summary.json", "new")
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "summary.json").read_text() == "new"
    assert not (tmp_path / "summary.json").is_symlink()


def test_even_a_foreseen_name_is_not_written_through(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda size: "00")
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".summary.json.00.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "summary.json", "new")
    assert (tmp_path / "victim").read_text() == "mine"


def test_bytes_and_rights_are_those_of_any_new_file(tmp_path):
    write_atomically(tmp_path / "a", b"\x00\xff")
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_what_fails_leaves_nothing(tmp_path):
    def half() -> None:
        with replacing(tmp_path / "a") as scratch:
            scratch.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert os.listdir(tmp_path) == []
