"""Data sets of the Hugging Face hub: `datasets` says which files each split of a configuration has; our readers read them.

So a hub data set is streamed, bounded and checked as every file is, and none of its code runs.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from posttrain.data.source_files import COMPRESSED, FORMATS, kind_of, side_of
from posttrain.runtime.hub_revision import cached_snapshot, commit_of
from schemas.errors import Refusal
from schemas.sources import DataSource

# Data sets that have one split for each use name them so: HuggingFaceH4/ultrafeedback_binarized has train_prefs, train_sft, ….
USES: Final = {"data.preferences": "prefs", "data.instructions": "sft"}

KNOWN: Final = (
    ("scripts are no longer supported", "needs a script that would run here",
     "name its revision refs/convert/parquet, which the hub makes of it"),
    ("Couldn't infer the same data file format", "has splits in several formats",
     "name the config of one of them, or download its files and name their folder"),
)  # fmt: skip
"""What `datasets` says, what is the matter, and what to do."""
ELSE: Final = "correct name, config or revision; a private one needs HF_TOKEN, a machine without a network a download before"


class HubFile(NamedTuple):
    """One file of a data set; the fields are those of a `SourceFile`."""

    name: str
    url: str
    split: str | None
    identity: str | None


def hub_files(source: DataSource, where: str) -> list[HubFile]:
    """The files of a data set of the hub, or of its snapshot in the local cache where the hub cannot be reached.

    Args:
        source: with `name`; `revision` as a commit makes it repeatable.
        where: the recipe field; refusals point at it.

    Raises:
        Refusal: when the extra is not installed, the hub and the cache have no such data set, configuration or split, or it needs
            a script or a format that is not read.
    """
    commit = commit_of(str(source.name), source.revision or "main", "dataset")
    root, splits = _splits(source, commit, where)
    chosen = _chosen(splits, source.splits, where)
    files = [_file(f"{source.name}@{commit}", root, split, str(url), where) for split, urls in chosen.items() for url in urls]
    if not files:
        raise Refusal(where=where, found=f"no files in {source.address}", allowed="a data set with rows", remedy="choose another")
    return sorted(files)


def _splits(source: DataSource, commit: str, where: str) -> tuple[str, Mapping[str, Sequence[str]]]:
    """The address of the repository, and those of its files by split, as its card and the names in it say."""
    if importlib.util.find_spec("datasets") is None:
        raise Refusal(
            where=where,
            found=f"{source.address}, and no package `datasets`",
            allowed="data sets of the hub with the extra `hub`",
            remedy='pip install "posttrain[hub]", or download the files and name their folder',
        )
    from datasets import load_dataset_builder

    name = str(source.name)
    if os.path.isdir(name):  # `datasets` would take it for the data set
        raise Refusal(
            where=where, found=f"{name}, which is a folder here too", allowed="one of the two",
            remedy=f"give path: ./{name} for the folder, or start elsewhere",
        )  # fmt: skip
    try:
        builder = load_dataset_builder(name, source.config, revision=commit)
        return f"hf://datasets/{name}@{commit}", dict(builder.config.data_files or {})
    except Exception as online:  # `datasets` and the hub's client have no common base of their errors
        snapshot = cached_snapshot(name, commit, "dataset")
        if snapshot is None:
            raise _unknown(source, online, where) from online
    try:
        local = load_dataset_builder(str(snapshot), source.config)
        return str(snapshot), dict(local.config.data_files or {})
    except Exception as error:
        raise _unknown(source, error, where) from error


def _unknown(source: DataSource, error: Exception, where: str) -> Refusal:
    said = " ".join(str(error).split())
    unknown = "cannot be read", ELSE
    reason, remedy = next(((reason, remedy) for sign, reason, remedy in KNOWN if sign in said), unknown)
    return Refusal(
        where=where,
        found=f"{source.address}, which {reason}: {said}",
        allowed="a data set of files (JSON lines, JSON, CSV, Parquet, Arrow), on the hub or in its local cache",
        remedy=remedy,
    )


def _chosen(splits: Mapping[str, Sequence[str]], wanted: Sequence[str], where: str) -> dict[str, Sequence[str]]:
    """The splits that the recipe names; where it names none, those for the use of the data set, or all."""
    missing = [split for split in wanted if split not in splits]
    if missing:
        raise Refusal(
            where=f"{where}.split",
            found=", ".join(missing),
            allowed=", ".join(map(str, splits)),
            remedy="choose of these, or none",
        )
    use = next((use for field, use in USES.items() if where.startswith(field)), "")
    suited = [split for split in splits if use and str(split).endswith(f"_{use}")]
    return {str(split): urls for split, urls in splits.items() if split in (wanted or suited or splits)}


def _file(identity: str, root: str, split: str, url: str, where: str) -> HubFile:
    """One file by its path in the repository; which commit it is of decides its bytes."""
    name = url.removeprefix(f"{root}/")
    if not kind_of(name)[0]:
        kinds = f"{' '.join(FORMATS)}, each also with {' '.join(COMPRESSED[1:])}"
        raise Refusal(where=where, found=f"{name}, a file of an unknown kind", allowed=kinds, remedy="choose another data set")
    return HubFile(name, url, side_of(split), f"{identity}/{name}" if re.search("@[0-9a-f]{40}$", identity) else None)
