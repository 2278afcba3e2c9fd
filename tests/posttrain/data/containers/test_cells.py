"""CSV and TSV: what the header and the cells say, and what a record costs that does not fit."""

from __future__ import annotations

import pytest

from posttrain.data.readers import read_rows
from posttrain.data.sources import SourceFile
from schemas.errors import Refusal


def read(path, text: str | bytes, **options) -> tuple[list, list]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    bad: list = []
    return list(read_rows(SourceFile(path.name, str(path)), bad.append, **options)), bad


def test_an_empty_cell_is_null_and_an_index_without_a_name_is_left_out(tmp_path):
    rows, bad = read(tmp_path / "x.csv", ', prompt ,chosen\n0,a,\n\n1,"b,\nc",d\n')
    assert rows == [(1, {"prompt": "a", "chosen": None}), (2, {"prompt": "b,\nc", "chosen": "d"})]
    assert bad == []


def test_a_record_that_does_not_fit_costs_itself(tmp_path):
    text = b"prompt,chosen\na,b,c\nd\n\xff,e\nf,g\n"
    rows, bad = read(tmp_path / "x.csv", text)
    assert rows == [(4, {"prompt": "f", "chosen": "g"})]
    assert [(each.row, each.reason) for each in bad] == [
        (1, "wrong_columns: 3 cells, not 2"),
        (2, "wrong_columns: 1 cells, not 2"),
        (3, "not_utf8: character 1 of the record"),
    ]


def test_a_tab_decides_in_a_tsv_whatever_else_is_there(tmp_path):
    assert read(tmp_path / "x.tsv", "a, b, c\td\n1\t2\n")[0] == [(1, {"a, b, c": "1", "d": "2"})]


def test_a_quotation_mark_that_is_not_closed_is_a_file_that_breaks_off(tmp_path):
    path, text = tmp_path / "x.csv", 'a,b\n1,2\n3,"4\n5,6\n'
    with pytest.raises(Refusal, match="breaks off at row 2, byte 17: a quotation mark is not closed") as refusal:
        read(path, text)
    assert refusal.value.where == "x.csv:2"
    rows, bad = read(path, text, keep_incomplete=True)
    assert rows == [(1, {"a": "1", "b": "2"})]
    assert [(each.row, each.code) for each in bad] == [(2, "broken_stream")]


@pytest.mark.parametrize(
    ("text", "said"),
    [("a,b,a\n1,2,3\n", "two columns of the name a"), ('a,b\n1,"2"3\n', "content that is not CSV: ',' expected after '\"'")],
)
def test_what_is_no_csv_is_refused(tmp_path, text, said):
    with pytest.raises(Refusal) as refusal:
        read(tmp_path / "x.csv", text)
    assert said in refusal.value.found


def test_long_cells_are_read_and_too_long_ones_cost_themselves(tmp_path, monkeypatch):
    long = "x" * 200_000  # more than the csv module reads unless told
    assert read(tmp_path / "x.csv", f"a\n{long}\n")[0] == [(1, {"a": long})]
    monkeypatch.setattr("posttrain.data.bounds.LONGEST_ROW", 100)
    rows, bad = read(tmp_path / "x.csv", f"a\n{long}\nb\n")
    assert rows == [(2, {"a": "b"})]
    assert [each.code for each in bad] == ["row_too_large"]
