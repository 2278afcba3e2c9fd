"""What the names of files say: which hold rows, and which split those are of."""

from __future__ import annotations

import pytest

from posttrain.data.source_files import kind_of, label_of, side_of, why_skipped


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("x.JSONL", (".jsonl", "")),
        ("x.jsonl.gz", (".jsonl", ".gz")),
        ("a.b/x.csv.xz", (".csv", ".xz")),
        ("https://hub/x.parquet?download=true", (".parquet", "")),
        ("x.gz", ("", "")),
        ("x.txt", ("", "")),
        ("jsonl", ("", "")),
    ],
)
def test_format_and_compression(url, expected):
    assert kind_of(url) == expected


@pytest.mark.parametrize(
    ("inner", "label", "side"),
    [
        ("train-00000-of-00002.parquet", "train", "train"),
        ("data/test-00001-of-00002.parquet", "test", "holdout"),
        ("data/train_prefs-00000-of-00001-0f1e.parquet", "train_prefs-00000-of-00001-0f1e", "train"),
        ("test_sft-00000-of-00001.parquet", "test_sft", "holdout"),
        ("validation.jsonl.gz", "validation", "holdout"),
        ("my-dev.jsonl", "dev", "holdout"),
        ("pairs_eval.csv", "eval", "holdout"),
        ("not_for_train_only_eval.jsonl", "eval", "holdout"),
        ("train/data-00000-of-00001.arrow", "train", "train"),
        ("Test/a.jsonl", "Test", "holdout"),
        ("en/train/part-0001.jsonl", "train", "train"),
        ("test/train.jsonl", "train", "train"),
        ("pairs.jsonl", None, None),
        ("contest.jsonl", None, None),
        ("latest/greatest.jsonl", None, None),
        ("evaluate-me.jsonl", None, None),
        ("data-00000-of-00001.arrow", None, None),
    ],
)
def test_the_split_that_a_path_says(inner, label, side):
    assert label_of(inner) == label
    assert side_of(label) == side


@pytest.mark.parametrize(
    ("inner", "why"),
    [
        ("a.jsonl", None),
        ("deep/er/a.csv.zst", None),
        ("._a.jsonl", "hidden"),
        (".ipynb_checkpoints/a-checkpoint.jsonl", "hidden"),
        ("__MACOSX/a.jsonl", "hidden"),
        ("train/cache-1a2b3c.arrow", "cache or unfinished"),
        ("cache-1a2b3c_00001_of_00004.arrow", "cache or unfinished"),
        ("a.jsonl.lock", "cache or unfinished"),
        ("a.parquet.incomplete", "cache or unfinished"),
        ("a.jsonl~", "cache or unfinished"),
        ("tmpa1b2c3d4", "cache or unfinished"),
        ("dataset_info.json", "no rows"),
        ("config.json", "no rows"),
        ("README.md", "no rows"),
    ],
)
def test_what_is_no_part_of_the_data(inner, why):
    assert why_skipped(inner) == why
