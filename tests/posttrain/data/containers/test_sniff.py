"""What is no data, or in another encoding, is refused by its right name; text that is damaged here and there is not."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile

import pytest

from posttrain.data.readers import read_rows
from posttrain.data.sources import SourceFile
from schemas.errors import Refusal

LINE = '{"prompt": "Où est le café?", "chosen": "là-bas", "rejected": "nulle part"}\n'
CHINESE = '{"prompt": "今天天气怎么样呢我们去公园散步吧", "chosen": "很好", "rejected": "不知道"}\n'


def archive() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as opened:
        opened.writestr("x.jsonl", LINE)
    return sink.getvalue()


def tape() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as opened:
        opened.addfile(tarfile.TarInfo("x.jsonl"))
    return sink.getvalue()


ELSE = {
    "zip": (archive(), "a ZIP archive", "unpack"),
    "tar": (tape(), "a tar archive", "unpack"),
    "pickle": (pickle.dumps([{"prompt": "a"}]), "a Python pickle, which can run code", "JSON lines"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "a Git LFS pointer", "git lfs pull"),
    "page": (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page", "login"),
    "latin-1": (LINE.encode("latin-1") * 30, "probably ISO-8859-1 (Latin-1)", "iconv -f ISO-8859-1"),
    "windows": (LINE.replace("'", "\u2019").replace("là", "\u2019là").encode("cp1252") * 30, "WINDOWS-1252", "iconv"),
    "chinese": (CHINESE.encode("gb18030") * 30, "probably GB18030", "iconv -f GB18030"),
    "cells": (b"prompt,chosen,rejected\nq,a,b\n", "looks like CSV or TSV", "name it .csv"),
}


def read(path) -> tuple[list, list]:
    bad: list = []
    return list(read_rows(SourceFile(path.name, str(path)), bad.append)), bad


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
@pytest.mark.parametrize("what", ELSE)
def test_it_is_refused_by_its_right_name(tmp_path, what, name):
    content, found, remedy = ELSE[what]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refusal) as refusal:
        read(tmp_path / name)
    assert found in refusal.value.found
    assert remedy in refusal.value.remedy
    assert refusal.value.where.startswith(name)


def test_another_encoding_is_told_with_its_first_line_and_byte(tmp_path):
    """Three ASCII lines of 10 bytes; `ù` is byte 14 of the fourth."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": "b"}'[:9] + b"}\n" + b'{"a": 1 }\n' * 2 + LINE.encode("latin-1") * 2)
    with pytest.raises(Refusal) as refusal:
        read(path)
    at = path.read_bytes().index(b"\xf9") + 1
    assert refusal.value.where == "x.jsonl:4"
    assert f"2 of the first 5 lines, the first at byte {at};" in refusal.value.found


def test_a_few_lines_that_are_not_utf8_cost_themselves(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(LINE.encode() * 50 + LINE.encode("latin-1") * 3)
    rows, bad = read(path)
    assert len(rows) == 50
    assert [(each.row, each.code) for each in bad] == [(row, "not_utf8") for row in (51, 52, 53)]


@pytest.mark.parametrize(
    ("text", "rows", "bad"),
    [
        ('{"a": \n{"a": 2}\n{"a": 3}\n', [2, 3], [1]),
        ('nothing\n{"a": 2}\n', [2], [1]),
        ('[1, 2]\n{"a": 2}\n', [2], [1]),
        ('{"a": 1}\n}\n', [1], [2]),
        ('"text"\n', [], [1]),
    ],
)
def test_json_lines_whose_first_line_is_bad_are_json_lines(tmp_path, text, rows, bad):
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    read_well, not_read = read(path)
    assert [row for row, _ in read_well] == rows
    assert [each.row for each in not_read] == bad
