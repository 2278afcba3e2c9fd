"""Names, folders and files that others may have made."""

from __future__ import annotations

import os

import pytest

from posttrain.runtime.trees import Irregular, contents, inside, is_name, read_regular, remove
from schemas.errors import Refusal


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", "a\\b", "a\0b", "a\nb", "x" * 256])
def test_what_is_no_plain_name_is_refused(tmp_path, name):
    assert not is_name(name)
    with pytest.raises(Refusal, match="leads out of"):
        inside(tmp_path, "cache", name, where="a tag")


@pytest.mark.parametrize("name", ["a", "a.b-c_d", "häuser 2", "...", "x" * 255])
def test_a_plain_name_is_a_path_inside(tmp_path, name):
    assert inside(tmp_path, "cache", name, where="a tag") == tmp_path / "cache" / name


def test_a_link_out_of_the_root_is_refused_and_one_within_it_is_not(tmp_path):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "in").symlink_to(root / "a")
    (root / "out").symlink_to(tmp_path)
    assert inside(root, "in", "b", where="a tag") == root / "in" / "b"
    with pytest.raises(Refusal):
        inside(root, "out", "b", where="a tag")


def test_contents_are_files_and_folders_and_nothing_else(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "x").write_text("x")
    assert contents(tmp_path) == ([tmp_path / "b" / "x"], [tmp_path / "b", tmp_path / "b" / "c"])
    (tmp_path / "b" / "c" / "loop").symlink_to(tmp_path)
    with pytest.raises(Irregular, match="loop is a link"):
        contents(tmp_path)


def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "a").write_text("text")
    assert read_regular(tmp_path / "a") == b"text"
    with pytest.raises(Irregular):
        read_regular(tmp_path / "a", limit=3)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="symbolic links"):
        read_regular(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Irregular):
        read_regular(tmp_path / "pipe")


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    remove(tmp_path / "link")
    remove(tmp_path / "nothing")
    assert (tmp_path / "a" / "b").exists()
    assert not (tmp_path / "link").is_symlink()
