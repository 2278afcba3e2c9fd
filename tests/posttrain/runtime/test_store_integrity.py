"""The store against somebody who may write into it: edits, links, pipes and foreign files are noticed, and lead nowhere."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.runtime.store import RESULT, Built, StageKey, Store
from schemas.errors import Refusal
from schemas.results import Origin

CORPUS = Origin(name="data.corpus", digest="d1", location="corpus.jsonl")
IDENTITY = StageKey("evaluate", 1, {"seed": 0}, (CORPUS,))


def make(folder: Path) -> Built:
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "weights").write_text("weights")
    return Built({"win_rate": 0.4}, {"model": "model"})


@pytest.fixture
def folder(tmp_path) -> Path:
    return Store(tmp_path / "store").build(IDENTITY, make).folder


@pytest.fixture
def victim(tmp_path) -> Path:
    """A folder outside the store."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "weights").write_text("weights")
    return tmp_path / "victim"


def edit(folder: Path, **fields) -> None:
    document = json.loads((folder / RESULT).read_text()) | fields
    (folder / RESULT).write_text(json.dumps(document))


def linked(folder: Path, victim: Path) -> None:
    (folder / "model" / "weights").unlink()
    (folder / "model" / "weights").symlink_to(victim / "weights")


def linked_folder(folder: Path, victim: Path) -> None:
    (folder / "model" / "weights").unlink()
    (folder / "model").rmdir()
    (folder / "model").symlink_to(victim)


def linked_result(folder: Path, victim: Path) -> None:
    (folder / RESULT).rename(victim / RESULT)
    (folder / RESULT).symlink_to(victim / RESULT)


def linked_key(folder: Path, victim: Path) -> None:
    folder.rename(victim / "moved")
    folder.symlink_to(victim / "moved")


ATTACKS = {
    "a number that turns a gate": lambda folder, victim: edit(folder, metrics={"win_rate": 0.9}),
    "an output elsewhere": lambda folder, victim: edit(folder, outputs={"model": "../../../victim"}, seal=None),
    "an absolute output": lambda folder, victim: edit(folder, outputs={"model": str(victim)}, seal=None),
    "the result of another stage": lambda folder, victim: edit(folder, stage="sft", seal=None),
    "another key": lambda folder, victim: edit(folder, key="0" * 32, seal=None),
    "other fields": lambda folder, victim: edit(folder, fields={"seed": 1}, seal=None),
    "other inputs": lambda folder, victim: edit(folder, inputs=[], seal=None),
    "a file that is a link": linked,
    "a folder that is a link": linked_folder,
    "a result that is a link": linked_result,
    "a key that is a link": linked_key,
    "a link in the folder": lambda folder, victim: (folder / "more").symlink_to(victim),
    "an empty folder": lambda folder, victim: (folder / "more").mkdir(),
    "a pipe": lambda folder, victim: os.mkfifo(folder / "more"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_result_that_was_changed_is_built_again_and_nothing_outside_is_touched(folder, victim, attack):
    ATTACKS[attack](folder, victim)
    before = sorted((str(path), path.read_text()) for path in victim.rglob("*") if path.is_file())
    store = Store(folder.parents[1])
    assert store.finished(IDENTITY) is None
    built = store.build(IDENTITY, make)
    assert (built.reused, built.result.metrics, built.path("model")) == (False, {"win_rate": 0.4}, folder / "model")
    assert Store(folder.parents[1]).finished(IDENTITY)
    assert sorted((str(path), path.read_text()) for path in victim.rglob("*") if path.is_file()) == before


def test_a_pipe_in_place_of_the_result_is_not_waited_for(folder):
    (folder / RESULT).unlink()
    os.mkfifo(folder / RESULT)
    assert Store(folder.parents[1]).finished(IDENTITY) is None


def test_a_result_of_an_older_version_is_reused_without_a_seal(folder):
    document = json.loads((folder / RESULT).read_text())
    del document["seal"]
    (folder / RESULT).write_text(json.dumps(document))
    stored = Store(folder.parents[1]).build(IDENTITY, lambda out: pytest.fail("built"))
    assert (stored.reused, stored.result.seal) == (True, None)


def test_a_seal_covers_every_field_and_is_the_same_after_reading(folder):
    result = Store(folder.parents[1]).finished(IDENTITY).result
    assert result.seal == result.computed_seal
    changes = {"seconds": 1.0, "metrics": {}, "outputs": {}, "environment": {}, "inputs": (), "fields": {}, "files": {}}
    assert all(result.model_copy(update={name: value}).computed_seal != result.seal for name, value in changes.items())


@pytest.mark.parametrize("name", ["evaluate", "runs", "cache"])
def test_a_room_of_the_store_that_is_a_link_is_refused(tmp_path, victim, name):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / name).symlink_to(victim)
    with pytest.raises(Refusal, match=f"{name}, a link"):
        Store(tmp_path / "store").build(IDENTITY, make)


def test_another_identity_is_not_served_by_a_copied_folder(folder):
    """A copy of a good result under the key of another one."""
    import shutil

    other = replace(IDENTITY, fields={"seed": 1})
    shutil.copytree(folder, folder.with_name(other.key))
    assert Store(folder.parents[1]).finished(other) is None
