"""Lines that a corpus has too often: counted over all files, taken out of each, and the same ones for any cut of the files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data.sources import SourceFile
from posttrain.filters import plan, repeated_lines, runs
from posttrain.filters.corpus import filter_corpus
from posttrain.filters.redecide import redecide
from posttrain.filters.repeated_lines import lines_of, without
from posttrain.text.buffers import Buffers, buffers
from posttrain.text.kernels.characters import SPACES
from schemas.errors import Refusal
from schemas.filtering import Filtering

OFF = dict.fromkeys([f"duplicate_{n}gram_characters" for n in range(5, 11)])
LLAMA = Filtering.model_validate({"preset": "llama3", "rules": OFF})


def arrow(texts: list[str]) -> Buffers:
    return buffers(pa.array(texts, pa.large_string()))


def filtered(folder: Path, texts: list[str], asked: Filtering = LLAMA, files: int = 1) -> dict[str, str]:
    """The texts that are kept, by identifier."""
    (folder / "in").mkdir(parents=True)
    for at in range(files):
        rows = [json.dumps({"id": f"d{number}", "text": text}) for number, text in enumerate(texts) if number % files == at]
        (folder / "in" / f"{at}.jsonl").write_text("\n".join(rows) + "\n")
    filter_corpus([SourceFile(path.name, str(path)) for path in sorted((folder / "in").iterdir())], asked, 0.1, folder / "out")
    return dict(pl.read_parquet(folder / "out" / "kept.parquet").select("id", "text").rows())


def test_a_line_goes_where_the_corpus_has_it_more_than_six_times(tmp_path: Path) -> None:
    """`Share this` seven times, with white space around it, and `Rare` six: the first goes everywhere, blank lines stay."""
    texts = [f"Title {n}\n{'  ' * n}Share this \t\n\nbody {n}" + "\nRare" * (n > 0) for n in range(7)]
    kept = filtered(tmp_path, texts)
    assert kept == {f"d{n}": f"Title {n}\n\nbody {n}" + "\nRare" * (n > 0) for n in range(7)}
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["lines_dropped"] == {"max_repeats": 7}


@pytest.mark.parametrize("files", [1, 3, 8])
def test_neither_files_nor_parts_nor_runs_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int) -> None:
    """Counted by hand: a line that is drawn for more than six of 60 documents is in none of them."""
    monkeypatch.setattr(plan, "RECORDS_AT_ONCE", 7)
    monkeypatch.setattr(runs, "LONGEST", 10)
    texts = [f"own {n}\nline {n % 7}\nline {n * n % 13}\nline {n % 11}" for n in range(60)]
    times = Counter(line for text in texts for line in text.split("\n"))
    assert {count > 6 for line, count in times.items() if line.startswith("line")} == {True, False} or max(times.values()) > 6
    expected = {f"d{n}": "\n".join(line for line in text.split("\n") if times[line] <= 6) for n, text in enumerate(texts)}
    assert filtered(tmp_path, texts, files=files) == expected


def test_buckets_are_counted_each_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 documents in 6 buckets: a line of all of them is too frequent in those with more than six, and stays in the others."""
    monkeypatch.setattr(repeated_lines, "BUCKET", 10)
    texts = [f"own {n}\nshared" for n in range(60)]
    buckets = [int(at) * 6 // 256 for at in lines_of(arrow(texts)).ranges]
    sizes = Counter(buckets)
    expected = {f"d{n}": f"own {n}" if sizes[at] > 6 else f"own {n}\nshared" for n, at in enumerate(buckets)}
    assert filtered(tmp_path, texts) == expected


def test_the_rejected_keep_what_they_said_and_metrics_are_of_what_is_left(tmp_path: Path) -> None:
    asked = Filtering.model_validate({"preset": "llama3", "rules": OFF | {"words": {"min": 2}}})
    filtered(tmp_path, [f"x{n}\nmenu and more" for n in range(6)] + ["one two three\nmenu and more"], asked)
    rejected = pl.read_parquet(tmp_path / "out" / "rejected.parquet")
    assert rejected["text"].to_list() == [f"x{n}\nmenu and more" for n in range(6)]
    assert rejected["words"].to_list() == [1] * 6
    assert rejected["lines_dropped"].to_list() == [1] * 6


def test_personal_data_is_masked_with_and_without_the_lines(tmp_path: Path) -> None:
    asked = Filtering.model_validate({"preset": "llama3", "rules": OFF | {"words": {"min": 2}}, "personal": {"kinds": ["email"]}})
    texts = [f"x{n}\nwrite to a@b.com" for n in range(7)] + ["mail me at c{0}@d.com today\nwrite to a@b.com"]
    kept = filtered(tmp_path, [*texts[:7], texts[7].format(1)], asked)
    assert kept == {"d7": "mail me at [EMAIL] today"}
    assert set(pl.read_parquet(tmp_path / "out" / "rejected.parquet")["text"]) == {f"x{n}\nwrite to [EMAIL]" for n in range(7)}


def test_decided_again_from_metrics_near_duplicates_are_the_same(tmp_path: Path) -> None:
    """Those that are alike only beyond the repeated lines: with the lines they would be less alike."""
    body = " ".join(f"w{n}" for n in range(40))
    menu = "\n".join(f"menu {n} of the page with some words" for n in range(20))
    texts = [f"{body} {n}\n{menu if n else ''}" for n in range(8)]
    asked = Filtering.model_validate({"preset": "llama3", "rules": OFF, "dedup": {"near": "14x8"}})
    kept = filtered(tmp_path, texts, asked)
    assert list(kept) == ["d0"]
    redecide(tmp_path / "out", asked, tmp_path / "again")
    again = pl.read_parquet(tmp_path / "again" / "decisions.parquet").filter(pl.col("kept"))
    assert again["id"].to_list() == ["d0"]
    other = asked.model_copy(update={"lines": asked.lines.model_copy(update={"max_repeats": 3})})
    with pytest.raises(Refusal, match="lines"):
        redecide(tmp_path / "out", Filtering.model_validate(other.model_dump(exclude_unset=True)), tmp_path / "other")


def test_a_cut_file_is_refused_as_without_the_rule(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{bad\n{"text": "half')
    with pytest.raises(Refusal, match="middle of an object"):
        filter_corpus([SourceFile("a.jsonl", str(tmp_path / "a.jsonl"))], LLAMA, 0.1, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["quarantine.parquet"]
    assert pl.read_parquet(tmp_path / "out" / "quarantine.parquet")["row"].to_list() == [2]


piece = st.sampled_from(["a", "b", "é", "日本", "\u3000", " ", "\t", "\n", "\n", "\n\n", "a b", "\u1680", "\u205f", "\U0001f600"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(piece, max_size=12).map("".join), min_size=1, max_size=6), st.integers(1, 3))
def test_lines_are_those_of_plain_python(texts: list[str], most: int) -> None:
    """`str.strip` and `Counter` over all documents, against the kernels with the hashes that are too frequent."""
    stripped = [[line.strip(SPACES) for line in text.split("\n")] for text in texts]
    times = Counter(line for lines in stripped for line in lines if line)
    found = lines_of(arrow(texts))
    assert found.counts.tolist() == [sum(bool(line) for line in lines) for lines in stripped]
    frequent = {value for value, count in Counter(found.hashes.tolist()).items() if count > most}
    left, gone = without(arrow(texts), (pl.Series(sorted(frequent), dtype=pl.UInt64).to_numpy(),))
    for at, (text, lines) in enumerate(zip(texts, stripped, strict=True)):
        kept = [raw for raw, line in zip(text.split("\n"), lines, strict=True) if times[line] <= most or not line]
        assert gone[at] == len(lines) - len(kept)
        while gone[at] and kept and not kept[0]:
            del kept[0]
        assert left.text(at) == ("\n".join(kept) if gone[at] else text)
