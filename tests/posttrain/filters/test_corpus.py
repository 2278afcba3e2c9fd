"""Filtering a corpus end to end: planted truth, balance, quarantine, refusals, real documents."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from posttrain.data.samples import write_sample
from posttrain.data.sources import SourceFile
from posttrain.filters import documents
from posttrain.filters.corpus import filter_corpus
from posttrain.filters.metrics import METRICS
from posttrain.filters.scores import COLUMNS
from schemas.errors import Refusal
from schemas.filter_rules import Bounds, FilterRules, LineRules
from schemas.filtering import Dedup, Filtering

REAL = Path(__file__).resolve().parents[3].parent / "shared/data"
OFF = dict.fromkeys([f"duplicate_{n}gram_characters" for n in range(5, 11)] + ["top_4gram_characters"])
SHORT_REVIEWS = Filtering(rules=FilterRules(words=Bounds(min=20), **OFF))  # whose sentences recur: they are made from a few
NOTHING_OFF = Filtering(preset="none")
DOCUMENT = [
    "id", "text", "source", "row", "url", *METRICS, *COLUMNS, "lines_dropped", "number", "fingerprint", "bands", "divergence",
]  # fmt: skip


def source(path: Path, rows: list[Any]) -> SourceFile:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return SourceFile(path.name, str(path))


def read(out: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(out / f"{name}.parquet")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """The folder of the filtered sample corpus (and the sample itself), and the metrics that came back."""
    out = tmp_path_factory.mktemp("filtered")
    write_sample("corpus", out / "corpus.jsonl")
    return out, filter_corpus([SourceFile("corpus.jsonl", str(out / "corpus.jsonl"))], SHORT_REVIEWS, 0.1, out)


def noise_of(folder: Path) -> dict[str, str | None]:
    rows = map(json.loads, (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["id"]: row["noise"] for row in rows}


def test_planted_noise_is_rejected_and_clean_documents_are_kept(sample: tuple[Path, dict[str, float]]) -> None:
    noise = noise_of(sample[0])
    kept = Counter(noise[name] for name in read(sample[0], "kept")["id"])
    planted = Counter(noise.values())
    assert {label: kept[label] for label in ("boilerplate", "other_language", "too_short", "duplicate")} == {
        "boilerplate": 0, "other_language": 0, "too_short": 0, "duplicate": 0,
    }  # fmt: skip
    for label in (None, "near_duplicate", "pii"):  # nothing here looks for the last two: they stay
        assert kept[label] >= 0.99 * planted[label]


def test_each_kind_of_noise_has_its_reason(sample: tuple[Path, dict[str, float]]) -> None:
    noise = noise_of(sample[0])
    rejected = read(sample[0], "rejected")
    reason = {"other_language": "stop_words < 2", "too_short": "words < 20", "duplicate": "duplicate"}
    for name, found in rejected.select("id", "reasons").iter_rows():
        assert found, name
        if noise[name] in reason:
            assert reason[noise[name]] in found
    copies = rejected.filter(pl.col("duplicate_of").is_not_null())
    assert copies.height == sum(label == "duplicate" for label in noise.values())
    assert set(copies["duplicate_of"]) <= set(read(sample[0], "kept")["id"])


def test_summary_agrees_with_the_files(sample: tuple[Path, dict[str, float]]) -> None:
    out, metrics = sample
    summary = json.loads((out / "summary.json").read_text())
    kept, rejected = read(out, "kept"), read(out, "rejected")
    assert summary["documents_in"] == metrics["documents_in"] == 7_000
    assert (summary["kept"], summary["rejected"], summary["quarantined"]) == (kept.height, rejected.height, 0)
    assert summary["train"] == kept.filter(split="train").height == metrics["documents_train"]
    assert summary["holdout"] == kept.filter(split="holdout").height == metrics["documents_holdout"]
    assert summary["kept_characters"] == kept["text"].str.len_chars().sum() == metrics["kept_characters"]
    assert summary["reasons"] == dict(Counter(rejected["reasons"].explode().to_list()))
    assert 0.08 < summary["holdout"] / kept.height < 0.12
    for name, histogram in summary["metrics"].items():
        assert sum(histogram["counts"]) == 7_000, name
        assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    assert (summary["metrics"]["words"]["min"], summary["metrics"]["words"]["max"]) == (20, 100_000)
    # Bins of words are [0, 1), [1, 2), [2, 5), [5, 10), [10, 20), ...: the planted short texts are below 20.
    assert sum(summary["metrics"]["words"]["counts"][:5]) == pl.concat([kept["words"], rejected["words"]]).lt(20).sum()


def test_columns(sample: tuple[Path, dict[str, float]]) -> None:
    assert read(sample[0], "kept").columns == [*DOCUMENT, "split", "phase"]
    assert read(sample[0], "rejected").columns == [*DOCUMENT, "reasons", "duplicate_of", "jaccard"]
    assert read(sample[0], "quarantine").columns == ["file", "row", "reason", "value"]


def test_batches_do_not_change_the_result(
    sample: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "BATCH_CHARACTERS", 400_000)
    progress: list[int] = []
    metrics = filter_corpus(
        [SourceFile("corpus.jsonl", str(sample[0] / "corpus.jsonl"))], SHORT_REVIEWS, 0.1, tmp_path, progress.append
    )
    assert metrics == sample[1]
    assert len(progress) > 5
    assert progress == sorted(progress)
    assert progress[-1] == 7_000
    for name in ("kept", "rejected"):
        assert read(tmp_path, name).equals(read(sample[0], name))
    assert (tmp_path / "summary.json").read_bytes() == (sample[0] / "summary.json").read_bytes()


def test_bad_rows_go_to_quarantine_with_file_row_and_value(tmp_path: Path) -> None:
    rows = [{"text": "fine"}, {"text": None}, {"text": 7}, "{broken", {"text": " \n"}, {"other": "x"}]
    first = source(tmp_path / "a.jsonl", rows)
    second = source(tmp_path / "b.jsonl", ["{worse", {"id": 12, "text": "good"}, "[1]"])
    metrics = filter_corpus([first, second], NOTHING_OFF, 0.5, tmp_path)
    assert (metrics["documents_in"], metrics["documents_kept"], metrics["documents_quarantined"]) == (9, 2, 7)
    assert read(tmp_path, "kept").select("id", "text", "source", "row").rows() == [
        ("a.jsonl:1", "fine", "a.jsonl", 1), ("12", "good", "b.jsonl", 2),
    ]  # fmt: skip
    quarantine = read(tmp_path, "quarantine").sort("file", "row")
    assert [(row[0], row[1], row[2].split(":")[0]) for row in quarantine.iter_rows()] == [
        ("a.jsonl", 2, "text_null"), ("a.jsonl", 3, "text_not_a_string"), ("a.jsonl", 4, "not_json"),
        ("a.jsonl", 5, "text_empty"), ("a.jsonl", 6, "text_null"), ("b.jsonl", 1, "not_json"), ("b.jsonl", 3, "not_an_object"),
    ]  # fmt: skip
    assert quarantine["value"].to_list()[1:3] == ["7", "{broken"]


def test_all_reasons_and_metrics_of_a_rejected_document_are_kept(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "to be"}, {"id": "b", "text": "TO  be"}, {"id": "c", "text": "#"}]
    rules = Filtering(preset="none", rules=FilterRules(words=Bounds(min=2), hash_per_word=Bounds(max=0)))
    filter_corpus([source(tmp_path / "a.jsonl", rows)], rules, 0.1, tmp_path)
    assert read(tmp_path, "rejected").select("id", "reasons", "duplicate_of", "words", "hash_per_word").rows() == [
        ("b", ["duplicate"], "a", 2, 0), ("c", ["words < 2", "hash_per_word > 0"], None, 1, 1),
    ]  # fmt: skip


def test_deduplication_can_be_switched_off(tmp_path: Path) -> None:
    files = [source(tmp_path / "a.jsonl", [{"text": "same"}, {"text": "same"}])]
    assert filter_corpus(files, NOTHING_OFF, 0.1, tmp_path)["documents_kept"] == 1
    assert filter_corpus(files, Filtering(preset="none", dedup=Dedup(exact=False)), 0.1, tmp_path)["documents_kept"] == 2


def test_no_text_column_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="text") as caught:
        filter_corpus([source(tmp_path / "a.jsonl", [{"id": 1, "content": "x"}])], NOTHING_OFF, 0.1, tmp_path)
    assert caught.value.where == "a.jsonl"
    assert caught.value.found == "columns content, id"


def test_nothing_kept_is_refused_with_the_most_frequent_reasons(tmp_path: Path) -> None:
    files = [source(tmp_path / "a.jsonl", [{"text": "too short"}, {"text": "the and"}, "{]"])]
    with pytest.raises(Refusal) as caught:
        filter_corpus(files, Filtering(), 0.1, tmp_path)
    assert caught.value.where == "data.corpus"
    reasons = "words < 50 (2), stop_words < 2 (1)"
    assert caught.value.found == f"3 documents, none kept, 1 quarantined; most frequent reasons: {reasons}"


def test_only_bad_rows_are_balanced_too(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="1 documents, none kept, 1 quarantined; most frequent reasons: none"):
        filter_corpus([source(tmp_path / "a.jsonl", ["{]"])], NOTHING_OFF, 0.1, tmp_path)


def test_every_planted_kind_is_found_and_nothing_else(sample: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    """Recall and precision of each kind that can be seen in a text, near-duplicates included, are at least 0.95."""
    noise = noise_of(sample[0])
    asked = SHORT_REVIEWS.model_copy(update={"dedup": Dedup(near="14x8")})
    filter_corpus([SourceFile("corpus.jsonl", str(sample[0] / "corpus.jsonl"))], asked, 0.1, tmp_path)
    rejected = read(tmp_path, "rejected")
    reasons = {
        "too_short": "words < 20", "other_language": "stop_words < 2", "duplicate": "duplicate",
        "near_duplicate": "near_duplicate",
    }  # fmt: skip
    for kind, reason in reasons.items():
        found = {name for name, why in rejected.select("id", "reasons").iter_rows() if reason in why}
        planted = {name for name, label in noise.items() if label == kind}
        also = {name for name, label in noise.items() if label in ("too_short", "boilerplate")}  # have few words of any kind
        assert len(found & planted) >= 0.95 * len(planted), kind
        assert len(found & (planted | also)) >= 0.95 * len(found), kind
    boilerplate = {name for name, label in noise.items() if label == "boilerplate"}
    assert boilerplate <= set(rejected["id"])
    clean = {name for name, label in noise.items() if label in (None, "pii")}
    assert len(clean - set(rejected["id"])) >= 0.99 * len(clean)


def test_lines_are_dropped_and_counted(tmp_path: Path) -> None:
    """The kept text is without them; a rejected document keeps what it said, and one without a line left has a reason."""
    rows = [{"id": "a", "text": "Stay here now.\nSkip this..."}, {"id": "b", "text": "Gone..."}, {"id": "c", "text": "x\ny..."}]
    rules = Filtering(preset="none", lines=LineRules(drop_ellipsis=True), rules=FilterRules(words=Bounds(min=2)))
    filter_corpus([source(tmp_path / "a.jsonl", rows)], rules, 0.1, tmp_path)
    assert read(tmp_path, "kept").select("id", "text", "lines_dropped", "words").rows() == [("a", "Stay here now.", 1, 3)]
    assert read(tmp_path, "rejected").select("id", "text", "reasons").rows() == [
        ("b", "Gone...", ["words < 2", "no line left"]), ("c", "x\ny...", ["words < 2"]),
    ]  # fmt: skip
    assert json.loads((tmp_path / "summary.json").read_text())["lines_dropped"] == {"drop_ellipsis": 3}


def test_a_refused_run_leaves_nothing_but_the_quarantine(tmp_path: Path) -> None:
    """Not even what an earlier run wrote there."""
    good, out = source(tmp_path / "a.jsonl", ["{", {"text": "fine"}]), tmp_path / "out"
    filter_corpus([good], NOTHING_OFF, 0.1, out)
    assert {path.name for path in out.iterdir()} == {"kept.parquet", "rejected.parquet", "quarantine.parquet", "summary.json"}
    with pytest.raises(Refusal, match="none kept"):
        filter_corpus([good], Filtering(), 0.1, out)
    assert [path.name for path in out.iterdir()] == ["quarantine.parquet"]
    assert read(out, "quarantine").select("file", "row").rows() == [("a.jsonl", 1)]


@pytest.mark.skipif(not list(REAL.glob("cc_en_head-*.jsonl.gz")), reason="shared/data is not there")
def test_real_documents_balance(tmp_path: Path) -> None:
    paths = sorted(REAL.glob("cc_en_head-*.jsonl.gz"))
    lines = sum(len(gzip.decompress(path.read_bytes()).splitlines()) for path in paths)
    metrics = filter_corpus([SourceFile(path.name, str(path)) for path in paths], Filtering(), 0.1, tmp_path)
    assert metrics["documents_in"] == lines == 20
    assert metrics["documents_kept"] + metrics["documents_rejected"] + metrics["documents_quarantined"] == lines
    assert metrics["documents_kept"] >= 10  # clean English pages, mostly


@pytest.mark.parametrize(("first", "second"), [("train", "holdout"), ("holdout", "holdout"), (None, "holdout")])
def test_the_split_of_a_file_is_that_of_its_documents(tmp_path: Path, first: str | None, second: str) -> None:
    """As names such as `test-00000.jsonl` say; documents of a file that says nothing are split by their hashes."""
    files = [
        replace(source(tmp_path / f"{name}.jsonl", [{"text": f"{name} {n}"} for n in range(40)]), split=split)
        for name, split in (("a", first), ("b", second))
    ]
    filter_corpus(files, NOTHING_OFF, 0.5, tmp_path)
    kept = read(tmp_path, "kept")
    splits = {name: set(kept.filter(source=f"{name}.jsonl")["split"]) for name in "ab"}
    assert splits == {"a": {"train", "holdout"} if first is None else {first}, "b": {second}}
