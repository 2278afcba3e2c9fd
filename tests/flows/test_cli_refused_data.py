"""Bad data, through the real command line: exit code 2, the file and the rows, and nothing trained or written but quarantine."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path

import pytest
import yaml


def rows_of(tiny, name: str) -> list[dict]:
    return [json.loads(line) for line in Path(tiny.document["data"][name]).read_text("utf-8").splitlines()]


def as_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def with_users_as_assistants(row: dict) -> dict:
    return {**row, "chosen": [{"role": "user", "content": row["chosen"][0]["content"]}]}


# Field, name of the file, its content made from the good rows of that field, and what the message says.
DATA = {
    "empty": ("preferences", "p.jsonl", lambda rows: b"", ("data.preferences: found", "an empty file", "at least one row")),
    "blank lines": ("preferences", "p.jsonl", lambda rows: b"\n\n\n", ("data.preferences", "no rows left of 0", "at least one")),
    "unknown kind": ("preferences", "p.txt", lambda rows: b"a,b\n", ("data.preferences: found", "p.txt, a file of an unknown")),
    "Latin-1": (
        "preferences", "p.jsonl", lambda rows: b'{"chosen": "caf\xe9", "rejected": "tea"}\n' * 20,
        ("p.jsonl:1: found text that is not UTF-8", "ISO-8859-1", "iconv"),
    ),
    "not JSON": ("preferences", "p.jsonl", lambda rows: b"chosen\n" * 20, ("no rows left of 20", "quarantine.parquet")),
    "CSV by another name": (
        "preferences", "p.jsonl", lambda rows: b"chosen, rejected\n" * 20, ("looks like CSV", "name it .csv")
    ),
    "wrong columns": (
        "preferences", "p.jsonl", lambda rows: as_lines([{"prompt": "a", "choosen": "b", "rejected": "c"}] * 3),
        ("p.jsonl: found columns prompt, choosen, rejected", "chosen + rejected", "rename `choosen` to `chosen`"),
    ),
    "roles reversed": (
        "preferences", "p.jsonl", lambda rows: as_lines([with_users_as_assistants(row) for row in rows[:100]] + rows[100:]),
        ("data.preferences: found 83.33% rows dropped", "p.jsonl:1", "data.checks.max_drop_rate = 0.2"),
    ),
    "chosen is rejected": (
        "preferences", "p.jsonl", lambda rows: as_lines([{**row, "rejected": row["chosen"]} for row in rows]),
        ("data.preferences: found no rows left of 120", "at least one clean row"),
    ),
    "half of chosen is rejected": (
        "preferences", "p.jsonl", lambda rows: as_lines([{**row, "rejected": row["chosen"]} for row in rows[::2]] + rows[1::2]),
        ("data.preferences: found 50.00% rows dropped", "p.jsonl:1", "data.checks.max_drop_rate = 0.2", "waive"),
    ),
    "prompts that differ": (
        "preferences", "p.jsonl",
        lambda rows: as_lines([{"chosen": f"\n\nHuman: a{i}?\n\nAssistant: b", "rejected": f"\n\nHuman: c{i}?\n\nAssistant: d"}
                               for i in range(6)] + rows[:114]),
        ("5.00% pairs whose two sides differ before their last message", "prompt_mismatch_fail = 0.01"),
    ),
    "truncated gzip": (
        "preferences", "p.jsonl.gz", lambda rows: gzip.compress(as_lines(rows))[:-900],
        ("content that breaks off at row", "a complete file", "download or write it again", "data.checks.incomplete: keep"),
    ),
    "not gzip at all": (
        "preferences", "p.jsonl.gz", lambda rows: b"Not found\n", ("p.jsonl.gz: found content that is not .jsonl.gz", "complete")
    ),
    "not Parquet": (
        "instructions", "i.parquet", lambda rows: b"PAR1PAR1", ("i.parquet: found content that is not Parquet", "write it again")
    ),
    "instructions without an answer": (
        "instructions", "i.jsonl", lambda rows: as_lines([{"prompt": "Hello?"}] * 5), ("i.jsonl: found columns prompt", "add")
    ),
    "instructions that end with the user": (
        "instructions", "i.jsonl", lambda rows: as_lines([{"messages": row["messages"][::-1]} for row in rows]),
        ("data.instructions: found no rows left of 120",),
    ),
    "corpus without text": (
        "corpus", "c.jsonl", lambda rows: as_lines([{"id": row["id"], "body": row["text"]} for row in rows]),
        ("c.jsonl: found columns body, id", "a column named text", "rename"),
    ),
}  # fmt: skip


def recipe_with(tiny, folder: Path, field: str, source: str) -> Path:
    document = copy.deepcopy(tiny.document)
    document["data"][field] = source
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
    return folder / "recipe.yaml"


@pytest.mark.parametrize("case", DATA)
def test_bad_data_is_refused_by_file_and_row_before_anything_trains(case, refused, tiny, tmp_path):
    field, name, content, said = DATA[case]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(content(rows_of(tiny, field)))
    refused(recipe_with(tiny, tmp_path, field, str(tmp_path / "data" / name)), [], said)


def test_a_refusal_for_bad_rows_names_a_quarantine_file_that_holds_them(refused, tiny, tmp_path):
    import polars as pl

    rows = rows_of(tiny, "preferences")
    spoilt = [{**row, "rejected": row["chosen"]} for row in rows[:60]] + rows[60:]
    (tmp_path / "p.jsonl").write_bytes(as_lines(spoilt))
    message = refused(recipe_with(tiny, tmp_path, "preferences", "p.jsonl"), [], ("50.00% rows dropped",))
    kept = tmp_path / "store" / "quarantine" / "tiny" / "quarantine.parquet"
    assert f"see {kept}" in message
    table = pl.read_parquet(kept)
    assert table["row"].to_list() == list(range(1, 61))
    assert {tuple(reasons) for reasons in table["reasons"].to_list()} == {("identical",)}


def test_a_folder_without_data_is_refused(refused, tiny, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("none")
    recipe = recipe_with(tiny, tmp_path, "corpus", str(tmp_path / "data"))
    refused(recipe, [], ("data.corpus: found no file of rows in the folder",))


def test_a_misspelt_file_is_refused_with_its_neighbour(refused, tiny, tmp_path):
    source = tiny.document["data"]["preferences"]
    wrong = source.replace("preferences.jsonl", "preference.jsonl")
    refused(
        recipe_with(tiny, tmp_path, "preferences", wrong), [], ("data.preferences: found nothing at", f"did you mean {source}?")
    )


def test_too_few_rows_to_hold_any_out_are_refused_before_anything_trains(refused, tiny, tmp_path):
    """Evaluation needs held-out prompts: two rows of which none is held out can be known to have none."""
    document = copy.deepcopy(tiny.document)
    for name in ("preferences", "instructions"):
        (tmp_path / f"{name}.jsonl").write_bytes(as_lines(rows_of(tiny, name)[:2]))
        document["data"][name] = str(tmp_path / f"{name}.jsonl")
    document["data"] |= {"holdout": 1e-9, "checks": {"waive": ["length_bias"]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    refused(tmp_path / "recipe.yaml", [], ("data.preferences: found no row in the split holdout", "change data.holdout"))
