"""What people write in other ways than JSON or a table would: marks as text, messages in columns, text that breaks off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from posttrain.data.collect import collect
from posttrain.data.dialects import listed, mark
from posttrain.data.kinds import KINDS
from posttrain.data.readers import BadRow
from posttrain.data.source_files import missing_note
from posttrain.data.sources import SourceFile, resolve
from schemas.errors import Refusal
from schemas.reading import Reading
from schemas.sources import DataSource

TALK = [{"role": "user", "content": "Is it far?"}, {"role": "assistant", "content": "Two miles."}]
CALL = {"type": "function", "function": {"name": "distance", "arguments": {}}}


def read(kind: str, *rows: dict[str, Any], folder: Path) -> tuple[pl.DataFrame, list[BadRow]]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return collect(KINDS[kind], [SourceFile(path.name, str(path))])[:2]


def said(table: pl.DataFrame, column: str) -> list[list[tuple[str, str]]]:
    return [[(message["role"], message["content"]) for message in row] for row in table[column].to_list()]


@pytest.mark.parametrize("value", ["N/A", "n/a", "", " None ", "null", "-", "NA", "nan"])
def test_a_word_for_no_score_is_none(value: str, tmp_path: Path) -> None:
    table, bad = read(
        "preferences",
        {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": "7.5", "score_rejected": value},
        folder=tmp_path,
    )
    assert (table["score_chosen"].to_list(), table["score_rejected"].to_list(), bad) == ([7.5], [None], [])


def test_of_several_answers_those_without_a_score_are_in_no_pair(tmp_path: Path) -> None:
    answers = [{"response": text, "overall_score": score} for text, score in (("a", "8"), ("b", "N/A"), ("c", 2))]
    table, bad = read("preferences", {"instruction": "q", "completions": answers}, folder=tmp_path)
    assert (said(table, "chosen"), said(table, "rejected"), bad) == ([[("assistant", "a")]], [[("assistant", "c")]], [])


def test_any_other_text_is_no_score(tmp_path: Path) -> None:
    _, bad = read("preferences", {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": "8 of 10"}, folder=tmp_path)
    assert [each.reason for each in bad] == ["wrong_type: `score_chosen` is text, not a finite number"]


@pytest.mark.parametrize(("winner", "chosen"), [("response_a", "yes"), ("Response_B", "no"), ("model_a", "yes")])
def test_a_winner_by_the_name_of_its_column(winner: str, chosen: str, tmp_path: Path) -> None:
    table, _ = read("preferences", {"prompt": "q", "response_a": "yes", "response_b": "no", "winner": winner}, folder=tmp_path)
    assert said(table, "chosen") == [[("assistant", chosen)]]


def test_null_among_several_answers_is_none_of_them(tmp_path: Path) -> None:
    table, bad = read("preferences", {"prompt": "q", "chosen": "a", "rejected": [None, "b", "c", None]}, folder=tmp_path)
    assert (said(table, "rejected"), bad) == ([[("assistant", "b")], [("assistant", "c")]], [])
    table, bad = read("preferences", {"prompt": "q", "chosen": "a", "rejected": [None]}, folder=tmp_path)
    assert (said(table, "rejected"), bad) == ([[]], [])


@pytest.mark.parametrize("role", ["Assistant ", "\tassistant", " GPT\n"])
def test_white_space_around_a_role_does_not_count(role: str, tmp_path: Path) -> None:
    for value in ([TALK[0], {"role": role, "content": "So."}], json.dumps([TALK[0], {"role": role, "content": "So."}])):
        table, _ = read("instructions", {"messages": value}, folder=tmp_path)
        assert said(table, "completion") == [[("assistant", "So.")]]


def test_calls_may_be_written_as_json(tmp_path: Path) -> None:
    """One, or a list of them; as a field of a message and as the content of one."""
    fields = [{"tool_calls": each} for each in ([CALL], json.dumps([CALL]), json.dumps(CALL), [json.dumps(CALL)])]
    rows = [{"role": "assistant", "content": None} | field for field in fields]
    rows.append({"role": "function_call", "content": json.dumps([CALL["function"]])})
    table, bad = read("instructions", *({"messages": [TALK[0], row, *TALK]} for row in rows), folder=tmp_path)
    assert [json.loads(prompt[1]["extra"]) for prompt in table["prompt"].to_list()] == [{"tool_calls": [CALL]}] * 5
    assert bad == []


@pytest.mark.parametrize(
    ("value", "means"),
    [("0", 0), (" 0.0", 0), ("False", 0), ("1", 1), ("1.0", 1), ("TRUE", 1), ("", None), (0, 0), (True, True), (None, None)],
)
def test_a_mark_as_text(value: object, means: object, tmp_path: Path) -> None:
    assert mark(value) == means
    talk = [TALK[0], TALK[1] | {"weight": value}, *TALK]
    table, bad = read("instructions", {"messages": talk}, folder=tmp_path)
    assert (table["prompt"].to_list()[0][1]["extra"] == '{"weight":0}', bad) == (means == 0, [])


@pytest.mark.parametrize("value", ["half", "2", 0.5])
def test_any_other_mark_costs_its_row(value: object, tmp_path: Path) -> None:
    _, bad = read("instructions", {"messages": [TALK[0], TALK[1] | {"weight": value}]}, folder=tmp_path)
    assert [each.reason for each in bad] == [f"wrong_type: `messages[1].weight` is {value!r}, not 0 or 1"]


def test_messages_in_columns_are_messages(tmp_path: Path) -> None:
    """As `datasets` keeps a `Sequence` of objects, in JSON lines and in Parquet."""
    columns = {"role": ["user", "assistant"], "content": ["Is it far?", "Two miles."], "name": None}
    table, bad = read(
        "instructions", {"messages": columns}, {"messages": {"from": ["human", "gpt"], "value": ["q", "a"]}}, folder=tmp_path
    )
    assert (said(table, "completion"), bad) == ([[("assistant", "Two miles.")], [("assistant", "a")]], [])
    pq.write_table(
        pa.table({"chosen": [columns], "rejected": [columns | {"content": ["Is it far?", "No."]}]}), tmp_path / "x.parquet"
    )
    table, bad, _ = collect(KINDS["preferences"], [SourceFile("x.parquet", str(tmp_path / "x.parquet"))])
    assert (said(table, "prompt"), said(table, "rejected"), bad) == ([[("user", "Is it far?")]], [[("assistant", "No.")]], [])


@pytest.mark.parametrize("columns", [{"role": ["user", "assistant"], "content": ["q"]}, {"role": ["user"], "content": "q"}])
def test_columns_that_do_not_match_cost_their_row(columns: dict[str, Any], tmp_path: Path) -> None:
    assert listed(columns) is columns
    _, bad = read("instructions", {"messages": columns}, folder=tmp_path)
    assert [each.reason.partition(":")[0] for each in bad] == ["wrong_type"]


@pytest.mark.parametrize("end", [-1, -3, -20, 40])
def test_messages_as_text_that_breaks_off_are_no_text(end: int, tmp_path: Path) -> None:
    """A field that was cut at some length must not be trained on as what somebody said."""
    for whole in (json.dumps(TALK), str(TALK)):
        _, bad = read("preferences", {"prompt": "q", "chosen": whole[:end], "rejected": "b"}, folder=tmp_path)
        assert [each.reason for each in bad] == ["cut_messages: `chosen` is a list of messages as text that breaks off"]


@pytest.mark.parametrize(
    "text", ["[{'role': 'user', 'content': question}]", '[{"role": "king", "name": ', '{"role": "user"', "[1, 2"]
)
def test_text_that_only_looks_like_it_stays(text: str, tmp_path: Path) -> None:
    table, bad = read("preferences", {"prompt": "q", "chosen": text, "rejected": "b"}, folder=tmp_path)
    assert (said(table, "chosen"), bad) == ([[("assistant", text)]], [])


@pytest.mark.parametrize("word", ["No input", "<no input>", "<NOINPUT>", "N/A", " none "])
def test_a_word_for_no_input_is_none(word: str, tmp_path: Path) -> None:
    table, _ = read("instructions", {"instruction": "Sing.", "input": word, "output": "La."}, folder=tmp_path)
    assert said(table, "prompt") == [[("user", "Sing.")]]


def test_a_zstd_file_may_begin_with_a_frame_that_holds_no_data(tmp_path: Path) -> None:
    rows = json.dumps({"messages": TALK}).encode() + b"\n"
    for first in (0x50, 0x5F):
        (tmp_path / "x.jsonl.zst").write_bytes(bytes([first]) + b"\x2a\x4d\x18\x03\0\0\0abc" + zstandard.compress(rows))
        table, bad, _ = collect(KINDS["instructions"], [SourceFile("x.jsonl.zst", str(tmp_path / "x.jsonl.zst"))])
        assert (table.height, bad) == (1, [])


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["train-00000-of-00002.parquet"], "d: numbered files are missing: train-*.parquet (here 1 of 2)"),
        (["a-00000-of-00003.jsonl.gz", "a-00002-of-00003.jsonl.gz"], "d: numbered files are missing: a-*.jsonl.gz (here 2 of 3)"),
        (["a-00000-of-00002.jsonl", "a-00001-of-00002.jsonl"], None),
        (["a-00000-of-00001.jsonl", "b.jsonl", "c-2-of-3.jsonl"], None),
    ],
)
def test_missing_files_of_a_numbered_table_are_named(names: list[str], note: str | None) -> None:
    assert missing_note("d", names) == note


def test_a_folder_says_that_a_part_is_missing_and_a_file_that_was_named_does_not(tmp_path: Path) -> None:
    path = tmp_path / "train-00001-of-00002.jsonl"
    path.write_text(json.dumps({"messages": TALK}) + "\n")
    (file,) = resolve(DataSource(path=str(tmp_path)), "data.instructions", tmp_path)
    assert "here 1 of 2" in "".join(file.notes)
    (file,) = resolve(DataSource(path=str(path)), "data.instructions", tmp_path)
    assert file.notes == ()


def test_a_folder_without_rows_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("no rows")
    with pytest.raises(Refusal) as caught:
        resolve(DataSource(path=str(tmp_path)), "data.instructions", tmp_path)
    assert caught.value.found == f"no file of rows in the folder {str(tmp_path)!r}"
    assert caught.value.remedy == "put files of these kinds there, or name another folder"


LONG = 'An answer of more than a line of numpy, {with} {braces}, it\'s said, and a "quotation" \\ in it.'


@pytest.mark.parametrize("answer", ["Two miles.", LONG, "} {'role': 'user'", "nan", "array([1], dtype=object)"])
def test_an_array_of_messages_as_pandas_writes_it_into_a_table_is_read(answer: str, tmp_path: Path) -> None:
    """numpy puts no comma between objects, on one line or on several."""
    talk = [{"content": "Is it far?", "role": "user"}, {"content": answer, "role": "assistant"}]
    table, bad = read(
        "preferences", {"prompt": "q", "chosen": str(np.array(talk, object)), "rejected": str(TALK)}, folder=tmp_path
    )
    assert (said(table, "chosen"), bad) == ([[("assistant", answer)]], [])
    assert said(table, "prompt") == [[("user", "Is it far?")]]


def test_arrays_and_gaps_inside_of_messages_are_read(tmp_path: Path) -> None:
    call = {"name": "distance", "arguments": {}}
    talk = [TALK[0] | {"weight": float("nan")}, TALK[1] | {"tool_calls": np.array([call, call], object), "n": np.array([1, 2])}]
    table, bad = read("instructions", {"messages": str(talk)}, folder=tmp_path)
    assert (said(table, "completion"), bad) == ([[("assistant", "Two miles.")]], [])
    assert json.loads(table["completion"][0][0]["extra"])["tool_calls"][1]["function"] == call


def test_messages_that_begin_with_their_content_and_break_off_are_no_text(tmp_path: Path) -> None:
    whole = json.dumps([{"content": "q", "role": "user"}, {"content": "a long one", "role": "assistant"}])
    _, bad = read("preferences", {"prompt": "q", "chosen": whole[:-30], "rejected": "b"}, folder=tmp_path)
    assert [each.reason for each in bad] == ["cut_messages: `chosen` is a list of messages as text that breaks off"]
    data = '[{"content": "x"}, {"content": "y", "by": '
    table, bad = read("preferences", {"prompt": "q", "chosen": data, "rejected": "b"}, folder=tmp_path)
    assert (said(table, "chosen"), bad) == ([[("assistant", data)]], [])


@pytest.mark.parametrize("tools", ["null", " None ", "nan", " ", "[]"])
def test_a_word_for_no_tools_is_none(tools: str, tmp_path: Path) -> None:
    table, bad = read("instructions", {"messages": TALK, "tools": tools}, folder=tmp_path)
    assert (said(table, "prompt"), bad) == ([[("user", "Is it far?")]], [])


@pytest.mark.parametrize("field", ["images", "audio", "video"])
def test_a_field_of_a_message_that_is_no_text_is_named_and_can_be_ignored(field: str, tmp_path: Path) -> None:
    rows = {"messages": [TALK[0] | {field: ["x.png"]}, TALK[1]]}, {"messages": [TALK[0] | {field: []}, TALK[1]]}
    table, bad = read("instructions", *rows, folder=tmp_path)
    reason = f"not_text: `messages[0].{field}` is no text, and is not read; `ignore: [{field}]` drops it"
    assert (table.height, [each.reason for each in bad]) == (1, [reason])
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = SourceFile("x", str(tmp_path / "rows.jsonl"), reading=Reading(ignore=(field,)))
    table, bad, _ = collect(KINDS["instructions"], [source])
    assert (table.height, bad) == (2, [])
