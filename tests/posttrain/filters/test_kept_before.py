"""A corpus that grows night by night: what was kept before is not kept again, and a repeated run finds what it found."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import polars as pl
import pytest

from posttrain.data.sources import SourceFile
from posttrain.filters.corpus import filter_corpus
from schemas.errors import Refusal
from schemas.filtering import Dedup, Filtering


def text(seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(5_000)}" for _ in range(60))


def night(folder: Path, name: str, texts: list[str], near: str | None = "14x8", files: int = 1) -> dict[str, tuple]:
    """Reasons, kept document and Jaccard index of each rejected one."""
    (folder / name).mkdir(exist_ok=True)
    cut = -(-len(texts) // files)
    for at in range(files):
        rows = [
            json.dumps({"id": f"{name}-{at * cut + k}", "text": each}) for k, each in enumerate(texts[at * cut : (at + 1) * cut])
        ]
        (folder / name / f"{at}.jsonl").write_text("\n".join(rows) + "\n")
    sources = [SourceFile(path.name, str(path)) for path in sorted((folder / name).iterdir())]
    asked = Filtering(preset="none", dedup=Dedup(near=near, against=str(folder / "index")))
    filter_corpus(sources, asked, 0.1, folder / f"out-{name}")
    rejected = pl.read_parquet(folder / f"out-{name}" / "rejected.parquet")
    return {name: tuple(rest) for name, *rest in rejected.select("id", "reasons", "duplicate_of", "jaccard").iter_rows()}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_night_by_night(tmp_path) -> None:
    """A changed last word leaves 55 of 57 shingles in common; the third night meets both nights before it."""
    assert night(tmp_path, "one", [text(1), text(2)]) == {}
    found = night(tmp_path, "two", [text(1).upper(), " ".join([*text(2).split()[:-1], "new"]), text(3)])
    assert found["two-0"] == (["duplicate"], "one-0", None)
    assert found["two-1"][:2] == (["near_duplicate"], "one-1")
    assert found["two-1"][2] == pytest.approx(55 / 57)
    assert set(found) == {"two-0", "two-1"}
    assert {name: of for name, (_, of, _) in night(tmp_path, "three", [text(3), text(2), text(4)]).items()} == {
        "three-0": "two-2",
        "three-1": "one-1",
    }


@pytest.mark.parametrize("files", [1, 2])
def test_a_repeated_run_finds_the_same_and_adds_nothing(tmp_path, files: int) -> None:
    """However its files are cut, and though a later night has come."""
    texts = [text(1), text(2), text(2) + " more", text(3)]
    first = night(tmp_path, "one", texts)
    night(tmp_path, "two", [text(9)])
    index, out = digests(tmp_path / "index"), digests(tmp_path / "out-one")
    assert night(tmp_path, "one", texts, files=files) == first
    assert digests(tmp_path / "index") == index
    assert files > 1 or digests(tmp_path / "out-one") == out


def test_a_refused_run_adds_nothing(tmp_path) -> None:
    night(tmp_path, "one", [text(1)])
    before = digests(tmp_path / "index")
    with pytest.raises(Refusal, match="none kept"):
        night(tmp_path, "two", [text(1), text(1)])
    assert digests(tmp_path / "index") == before


def test_another_shape_is_refused(tmp_path) -> None:
    night(tmp_path, "one", [text(1)])
    with pytest.raises(Refusal, match="14x8") as caught:
        night(tmp_path, "two", [text(2)], near="9x13")
    assert caught.value.where == "filtering.dedup.near"


def test_a_folder_of_something_else_is_refused(tmp_path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "mine.txt").write_text("mine")
    with pytest.raises(Refusal, match=r"mine\.txt"):
        night(tmp_path, "one", [text(1)])
    assert (tmp_path / "index" / "mine.txt").read_text() == "mine"
