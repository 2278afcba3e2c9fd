"""What is wrong with text that is no JSON is said in the words of who wrote it, with a remedy, in rows and in whole files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.data.containers.slips import PYTHON, open_brackets
from posttrain.data.readers import BadRow, read_rows
from posttrain.data.sources import SourceFile
from schemas.errors import Refusal

# Text of a row, what is said of it, and a part of the remedy.
SLIPS = {
    "trailing comma": ('{"a": 1, "b": 2,}', "a trailing comma before }", "remove the comma"),
    "trailing comma in a list": ('{"a": [1, 2, ], "b": 2}', "a trailing comma before ]", "remove the comma"),
    "comma first": ('{, "a": 1}', "a comma with nothing before it", "remove that comma"),
    "two commas": ('{"a": [1,, 2]}', "a comma with nothing before it", "remove that comma"),
    "no comma": ('{"a": 1 "b": 2}', "a missing comma", "put a comma there"),
    "no comma behind text": ('{"a": "x" "b": 2}', "a missing comma", "put a comma there"),
    "no value": ('{"a": , "b": 2}', "no value after :", "write null"),
    "no last value": ('{"b": 2, "a": }', "no value after :", "write null"),
    "single quotes": ("{'a': 1}", PYTHON, "json.dumps"),
    "single quotes later": ("{\"a\": 1, \"b\": 'x'}", PYTHON, "json.dumps"),
    "None": ('{"a": 1, "b": None}', "`None`, where JSON has `null`", "json.dumps"),
    "True": ('{"a": [True]}', "`True`, where JSON has `true`", "json.dumps"),
    "nan": ('{"a": nan}', "`nan`, where JSON has `null`", "json.dumps"),
    "undefined": ('{"a": undefined}', "`undefined`, where JSON has `null`", "json.dumps"),
    "tuple": ('{"a": (1, 2)}', "a tuple, as Python prints it", "json.dumps"),
    "word": ('{"a": hello}', "`hello`, which is no value of JSON", 'put " around text'),
    "bare name": ('{a: 1}', "a name without quotation marks: a", 'put " around names'),
    "comment": ('{"a": 1 // one\n}', "a comment, which JSON does not have", "remove the comments"),
    "comment in front": ('{/* one */ "a": 1}', "a comment, which JSON does not have", "remove the comments"),
    "comment of a shell": ('{"a": 1, # one\n "b": 2}', "a comment, which JSON does not have", "remove the comments"),
    "brace for bracket": ('{"a": [1, {"x": "[{"}}, "b": 2}', "} where ] belongs", "the last that is open is a ["),
    "bracket for brace": ('{"a": {"b": 2], "c": 3}', "] where } belongs", "the last that is open is a {"),
    "quotes in text": ('{"a": "he said "hi" there"}', "text that goes on behind its quotation mark", r'write \"'),
    "curly quotes": ('{"a": \u201cx\u201d}', "typographic quotation marks", 'write "'),
    "line break": ('{"a": "x\ny"}', "a line break inside text", r"\n"),
    "tab": ('{"a": "x\ty"}', "a tab inside text", r"\t"),
    "backslash": (r'{"a": "it\'s"}', "a backslash that escapes nothing", r"write \\"),
}  # fmt: skip


def read(path: Path) -> tuple[list[dict], list[BadRow]]:
    bad: list[BadRow] = []
    return [row for _, row in read_rows(SourceFile(path.name, str(path)), bad.append)], bad


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_an_array_is_named_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slip: str, chunk: int
) -> None:
    """However the text is cut into pieces on the way."""
    monkeypatch.setattr("posttrain.data.containers.values.CHUNK", chunk)
    text, said, remedy = SLIPS[slip]
    (tmp_path / "x.json").write_text('[{"z": "\\"{"},\n' + text + "]")
    with pytest.raises(Refusal, match="content that is not JSON") as refused:
        read(tmp_path / "x.json")
    assert f"JSON: {said} at byte " in refused.value.found
    assert ", in row 2" in refused.value.found
    assert remedy in refused.value.remedy


@pytest.mark.parametrize("slip", [name for name, (text, *_) in SLIPS.items() if "\n" not in text])
def test_a_slip_in_a_line_costs_the_line_and_is_named_with_a_remedy(tmp_path: Path, slip: str) -> None:
    text, said, remedy = SLIPS[slip]
    for name, lines in {"x.jsonl": [text, '{"a": 1}', '{"a": 2}'], "y.jsonl": ['{"a": 1}', text, '{"a": 2}']}.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        rows, bad = read(tmp_path / name)
        assert (len(rows), len(bad)) == (2, 1)
        assert bad[0].reason.startswith(f"not_json: {said} at character ")
        assert remedy in bad[0].reason


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_the_only_object_is_named_with_a_remedy(tmp_path: Path, slip: str) -> None:
    """As a bad row where it is a line, and as a refusal where it is not."""
    text, said, remedy = SLIPS[slip]
    more = [f'{text[:-1]}, "more": {json.dumps({"a": 1}, indent=1)}}}'] if text[-2] not in ", " else []
    said = "' where , or } belongs" if slip.startswith("no comma") else said
    for written in (*([] if slip.startswith("no comma") else [text]), text.replace("{", "{\n", 1), *more):
        (tmp_path / "x.json").write_text(written)
        try:
            found = read(tmp_path / "x.json")[1][0].reason
        except Refusal as refusal:
            found = str(refusal)
        assert (said in found, remedy in found) == (True, True), (written, found)


@pytest.mark.parametrize("comment", ["// why\n", "# why\n", "/* why\n not */", "// a\n\n// b\n"])
def test_comments_before_an_array_are_told_and_no_row_is_counted(tmp_path: Path, comment: str) -> None:
    (tmp_path / "x.json").write_text(comment + json.dumps([{"a": 1}, {"a": 2}], indent=1))
    with pytest.raises(Refusal, match=r"a comment, which JSON does not have at byte 1, in row 1"):
        read(tmp_path / "x.json")


def test_comments_among_lines_cost_themselves(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('// why\n{"a": 1}\n{"a": 2} // two\n# three\n{"a": 3}\n')
    rows, bad = read(tmp_path / "x.jsonl")
    assert (rows, [each.row for each in bad]) == ([{"a": 1}, {"a": 3}], [1, 3, 4])
    assert all("a comment" in each.reason for each in bad)


def test_closing_brackets_behind_the_end_are_named(tmp_path: Path) -> None:
    for text, said in {
        '[{"a": 1}]]': "a ] too many",
        '{"a":\n1}}': "a } too many",
        '[{"a": 1}}': "'}' where , or ] belongs",
    }.items():
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(Refusal) as refused:
            read(tmp_path / "x.json")
        assert (said in refused.value.found, refused.value.remedy.startswith("remove that ")) == (True, True)


def test_a_bracket_that_closes_another_is_named_where_rows_are_read_on_the_way(tmp_path: Path) -> None:
    for text, said in {'{"data":\n[{"a": 1}}}': "'}' where , or ] belongs", "{\n]": "] where } belongs"}.items():
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(Refusal) as refused:
            read(tmp_path / "x.json")
        assert said in refused.value.found
    for text in ("{]\n", "{]"):
        (tmp_path / "x.jsonl").write_text(text)
        assert [each.row for each in read(tmp_path / "x.jsonl")[1]] == [1]


@pytest.mark.parametrize("text", [b'[{"a": 1},\xff]', b'[{"a": 1} \xff]', b'{"a":\n\xff"b"}'])
def test_bytes_that_are_no_text_are_named_as_such(tmp_path: Path, text: bytes) -> None:
    """Not as the half of a surrogate pair that stands for them inside."""
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(Refusal, match="byte 0xff, which is not UTF-8 at byte") as refused:
        read(tmp_path / "x.json")
    assert "udc" not in str(refused.value)
    assert refused.value.remedy == "write the file as UTF-8, or remove that byte"


def test_half_of_a_surrogate_pair_costs_its_row_and_is_named(tmp_path: Path) -> None:
    bad_row = r'{"a": "\ud83d\ude00 \ud83d"}'
    for name, text in {
        "x.jsonl": bad_row + "\n",
        "y.jsonl": bad_row + '\n{"a": 1}\n',
        "z.json": f'[{bad_row}, {{"a": 1}}]',
    }.items():
        (tmp_path / name).write_text(text)
        _, bad = read(tmp_path / name)
        said = r"not_json: half of a surrogate pair (\ud83d) at character 21; write the whole character, or remove it"
        assert [(each.row, each.reason) for each in bad] == [(1, said)]
    (tmp_path / "x.json").write_text('{"a":\n["\\ude00"]}')
    with pytest.raises(Refusal, match=r"half of a surrogate pair \(\\ude00\) at byte"):
        read(tmp_path / "x.json")


def test_something_behind_an_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1} x\n{"a": 2}\n{"a": 3}{"a": 4}\n')
    rows, bad = read(tmp_path / "x.jsonl")
    assert rows == [{"a": 2}]
    said = "not_json: something behind the object at character {}; write one object a line"
    assert [each.reason for each in bad] == [said.format(10), said.format(9)]


def test_brackets_in_text_are_not_open() -> None:
    assert open_brackets(r'{"a": ["}", "\"]", {"b": [') == "{[{["
    assert open_brackets('[{"a": 1}, "[') == "["
