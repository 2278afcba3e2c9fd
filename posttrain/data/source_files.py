"""Which files of a folder hold rows, of what kind they are, and which split their names say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from posttrain.data.split import DECLARED

FORMATS: Final = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".warc", ".wet")
COMPRESSED: Final = ("", ".gz", ".zst", ".bz2", ".xz")
# What `datasets.save_to_disk` and the hub put next to the rows: they end in .json but hold no rows.
SIDECARS: Final = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"})
# Results of `map` and `filter` that `datasets` keeps beside a data set, and what is there while something is being written.
PASSING: Final = re.compile(
    r"^(cache-[0-9a-f]+(_\d+_of_\d+)?\.arrow|tmp\w{8}|.*\.(lock|incomplete|part|partial|tmp|crdownload)|.*~)$"
)
SHARD: Final = re.compile(r"^(?P<label>\w[\w.-]*?)[-_.]\d{4,6}([-_.]of[-_.]\d{4,6})?$")
NUMBERED: Final = re.compile(r"(.*[-_.])(\d{4,6})[-_.]of[-_.](\d{4,6})(.*)")  # a part of a table, and how many it has
WORD: Final = re.compile(r"[^A-Za-z]+")
NAMED: Final = 5  # files that a message names


def kind_of(address: str) -> tuple[str, str]:
    """The format and the compression that the name of a file says (its query left aside), or two empty texts."""
    name = path_of(address).lower()
    for compressed in sorted(COMPRESSED, key=len, reverse=True):
        if name.endswith(compressed):
            bare = name.removesuffix(compressed)
            found = next((known for known in FORMATS if bare.endswith(known)), "")
            if found:
                return found, compressed
    return "", ""


def path_of(address: str) -> str:
    """Path of a file system's name or URL, without query."""
    return urlsplit(address).path if "://" in address else address


def why_skipped(inner: str) -> str | None:
    """Why a file of a folder, by its path in the folder, is no part of the data; None where it is one."""
    *folders, name = inner.split("/")
    if any(part.startswith((".", "__")) for part in (*folders, name)):
        return "hidden"
    if PASSING.match(name):
        return "cache or unfinished"
    return "no rows" if name in SIDECARS or not kind_of(name)[0] else None


def skipped_note(place: str, skipped: dict[str, str]) -> str | None:
    """A sentence about the files of a folder that are not read, by why; files that are no data anyhow are not named."""
    named = [f"{name} ({why})" for name, why in sorted(skipped.items()) if why != "no rows"]
    if not named:
        return None
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return f"{place}: not read: {', '.join(named[:NAMED])}{more}"


def missing_note(place: str, names: Iterable[str]) -> str | None:
    """A sentence about numbered files, such as `train-00000-of-00002.parquet`, of which some are not there."""
    there: dict[tuple[str, int], set[int]] = {}
    for name in names:
        if numbered := NUMBERED.fullmatch(name):
            start, at, count, end = numbered.groups()
            there.setdefault((f"{start}*{end}", int(count)), set()).add(int(at))
    gaps = [f"{name} (here {len(found)} of {count})" for (name, count), found in sorted(there.items()) if len(found) < count]
    return f"{place}: numbered files are missing: {', '.join(gaps[:NAMED])}" if gaps else None


def label_of(inner: str) -> str | None:
    """The split that a path in a data set says, in its own words: `train_prefs` of `data/train_prefs-00000-of-00002.parquet`.

    The name counts before the folders, and the nearest folder before those above it. `eval/train.jsonl` is `train`.
    """
    *folders, name = inner.split("/")
    stem = name[: len(name) - sum(map(len, kind_of(name)))] if kind_of(name)[0] else name
    shard = SHARD.match(stem)
    for part in (shard["label"] if shard else stem, *reversed(folders)):
        if part.lower() in DECLARED:
            return part
        words = [word for word in WORD.split(part.lower()) if word in DECLARED]
        if words:
            # `train_prefs` begins with what it is; elsewhere a word for held-out rows weighs more than one for training rows.
            first = part.lower().startswith(words[0])
            chosen = words[0] if first else next((word for word in words if DECLARED[word] == "holdout"), words[0])
            return part if shard or first else chosen
    return None


def side_of(label: str | None) -> str | None:
    """`train` or `holdout`, as the label of a split says; None where it says neither."""
    if label is None:
        return None
    words = [label.lower(), *WORD.split(label.lower())]
    return next((DECLARED[word] for word in words if word in DECLARED), None)


def shown(name: str, names: Iterable[str]) -> str:
    """The name relative to the folder that all names share: the same on every machine."""
    paths = [path_of(each) for each in names]
    return os.path.relpath(path_of(name), os.path.commonpath([os.path.dirname(path) for path in paths]) or ".")
