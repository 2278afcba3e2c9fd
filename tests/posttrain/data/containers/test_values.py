"""JSON that is not one object a line: which object is a row and which holds rows, and where reading stops."""

from __future__ import annotations

import json

import pytest

from posttrain.data.containers.json_text import doubled_keys
from posttrain.data.readers import read_rows
from posttrain.data.sources import SourceFile
from schemas.errors import Refusal

TURN = {"role": "user", "content": "a"}
ONE_ROW = {
    "flat": {"prompt": "a", "chosen": "b"},
    "messages": {"messages": [TURN, {"role": "assistant", "content": "b"}]},
    "two sides of messages": {"chosen": [TURN], "rejected": [TURN]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "a list among text": {"prompt": "a", "data": ["b"]},
    "objects": {"chosen": {"role": "assistant"}, "rejected": {"role": "assistant"}},
}


def read(path, **options) -> tuple[list, list, list]:
    bad, notes = [], []
    rows = list(read_rows(SourceFile(path.name, str(path)), bad.append, note=notes.append, **options))
    return rows, bad, notes


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("row", ONE_ROW)
def test_an_object_alone_is_a_row(tmp_path, row, indent):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(ONE_ROW[row], indent=indent))
    assert read(path)[0] == [(1, ONE_ROW[row])]


def test_arrays_of_messages_by_column_are_rows(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"chosen": [[TURN], []], "rejected": [[], [TURN]]}))
    assert [row for _, row in read(path)[0]] == [{"chosen": [TURN], "rejected": []}, {"chosen": [], "rejected": [TURN]}]


def test_the_key_of_a_split_says_the_split_of_its_rows(tmp_path):
    """Whatever a row says itself: what stands under `test` is not for training. What is beside the rows is named."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"train": [{"a": 1}], "test": [{"a": 2, "split": "train"}], "license": "MIT"}))
    rows, _, notes = read(path)
    assert rows == [(1, {"a": 1, "split": "train"}), (2, {"a": 2, "split": "test"})]
    assert notes == ["x.json: license beside the rows is not read"]


def test_no_rows_are_no_rows(tmp_path):
    for text in ("[]", '{"data": []}', '{"prompt": [], "chosen": []}', " \n"):
        (tmp_path / "x.json").write_text(text)
        assert read(tmp_path / "x.json") == ([], [], [])


def test_what_is_no_object_or_no_text_costs_itself(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'[{"a": "\\ud800"}, 3, {"a": NaN}, {"a": "\xff"}, {"a": -Infinity, "b": 2}]')
    rows, bad, _ = read(path)
    assert rows == [(3, {"a": None}), (5, {"a": None, "b": 2})]
    assert [(each.row, each.code) for each in bad] == [(1, "not_json"), (2, "not_an_object"), (4, "not_utf8")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"a": 1},\n{"a": 2} {"a": 3}]', "'{' where , or ] belongs at byte 21, in row 3"),
        ('[{"a": 1},\n{"a" 2}]', "Expecting ':' delimiter at byte 17, in row 2"),
        ('{"data": [{"é": 1},\n{"a": tru], "license": "MIT"}', "`tru`, which is no value of JSON at byte 28, in row 2"),
        ("[" * 5000, "nested too deeply at byte 2, in row 1"),
    ],
)
def test_what_is_not_json_is_refused_by_byte_and_row(tmp_path, text, said):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(Refusal, match="content that is not JSON") as refusal:
        read(tmp_path / "x.json")
    assert said in refusal.value.found


SLIPS = {
    "at the end of an array": ('[{"a": 1},\n{"a": 2} ,\n]', "a trailing comma before ] at byte 23, in row 3", "remove the comma"),
    "at the end of a row": ('[{"a": 1},\n{"a": [2], }]', "a trailing comma before } at byte 23, in row 2", "remove the comma"),
    "at the end of a list": ('[{"a": 1},\n{"a": [2,]}]', "a trailing comma before ] at byte 21, in row 2", "remove the comma"),
    "after the rows": ('{\n"data": [{"a": 1}],\n}', "a trailing comma before } at byte 23, in row 2", "remove the comma"),
    "at the ends of lines": ('{"a": 1},\n{"a": 2},\n', "a comma between objects that are in no array at byte 9, in row 2", "[ ]"),
    "what Python prints": ("[{'a': 1}]", "single quotes around text, as Python prints objects", "json.dumps"),
    "anything else": ('[{"a": 1}, {"a" 2}]', "Expecting ':' delimiter at byte 17, in row 2", "JSON lines, one object a line"),
}


@pytest.mark.parametrize("chunk", [1, 5, 1 << 16])
@pytest.mark.parametrize("slip", SLIPS)
def test_slips_of_who_wrote_the_file_have_a_remedy(tmp_path, monkeypatch, slip, chunk):
    """However the text is cut into pieces on the way."""
    monkeypatch.setattr("posttrain.data.containers.values.CHUNK", chunk)
    text, said, remedy = SLIPS[slip]
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(Refusal, match="content that is not JSON") as refusal:
        read(tmp_path / "x.json")
    assert said in refusal.value.found
    assert remedy in refusal.value.remedy


def test_a_line_that_python_printed_is_called_so(tmp_path):
    (tmp_path / "x.jsonl").write_text("{'a': 1}\n" + '{"a": 2}\n')
    rows, bad, _ = read(tmp_path / "x.jsonl")
    assert rows == [(2, {"a": 2})]
    assert [each.reason for each in bad] == [
        "not_json: single quotes around text, as Python prints objects, where JSON has double ones at character 2; "
        "write it with a JSON writer, such as json.dumps in Python"
    ]


@pytest.mark.parametrize("cut", [9, 10, 25, 38, 40, 58])
def test_an_array_that_breaks_off_is_refused_or_kept_to_there(tmp_path, cut):
    """41 bytes a row and its comma."""
    rows = [{"prompt": f"question {at}", "n": at} for at in range(3)]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows)[:cut])
    whole = sum(cut > 1 + 34 * (at + 1) - 3 for at in range(3))
    with pytest.raises(Refusal, match=f"breaks off at row {whole + 1}, byte {cut + 1}"):
        read(path)
    kept, bad, notes = read(path, keep_incomplete=True)
    assert [row for _, row in kept] == rows[:whole]
    assert [(each.row, each.code) for each in bad] == [(whole + 1, "broken_stream")]
    assert "all that should follow" in notes[0]


def test_doubled_keys_are_told_once_for_a_file(tmp_path):
    lines = ['{"a": 1, "a": 2}', '{"b": {"c": 1, "c": 1}}', '{"a": "\\":\\":", "d": "x"}', '{"a": 1}']
    for name, text in {"x.jsonl": "\n".join(lines), "x.json": f"[{','.join(lines)}]"}.items():
        (tmp_path / name).write_text(text)
        rows, _, notes = read(tmp_path / name)
        assert rows[0] == (1, {"a": 2})
        assert notes == [f"{name}: 2 rows have a key twice (a, c), the first 1; the last counts"]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ('{"a" : 1, "a": 2}', ["a"]),
        ('{"a":"\\u0022:","b":1,"b":2}', ["b"]),
        ('{"a":"\\":","b":{"c":1,"c":2}}', ["c"]),
        ('{"a":[{"role":"x","content":"\\": \\" :"}]}', []),
        ('{"a" :1,"b" :": "}', []),
        ('{"a":{"b":1},"c":[{"b":2,"b":2,"a":"x"}]}', ["b"]),
    ],
)
def test_which_keys_are_doubled(text, keys):
    assert doubled_keys(text.encode(), json.loads(text)) == keys


def test_one_object_of_many_rows_in_one_long_line(tmp_path):
    """Longer than what is looked at first; a newline at the end makes it no line of JSON lines."""
    rows = [{"prompt": f"question {at}"} for at in range(5_000)]
    path = tmp_path / "x.json"
    for end in ("", "\n", "\n\n"):
        path.write_text(json.dumps({"data": rows}) + end)
        assert [row for _, row in read(path)[0]] == rows
