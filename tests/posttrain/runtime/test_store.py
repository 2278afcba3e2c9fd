"""The store: identity, atomicity, reuse, damage and concurrency."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.runtime.integrity import read_result
from posttrain.runtime.partial import CHECKPOINT
from posttrain.runtime.store import RESULT, Built, StageKey, Store
from posttrain.runtime.writing import write_atomically
from schemas.errors import Refusal
from schemas.results import Origin

CORPUS = Origin(name="data.corpus", digest="d1", location="corpus.jsonl")
IDENTITY = StageKey("sft", 1, {"seed": 0, "sft": {"epochs": 2}}, (CORPUS,))
WRITES = ("model", "weights", "config")


def make(folder: Path) -> Built:
    """Writes an output of two files and a log."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "weights").write_text("weights")
    (folder / "model" / "config").write_text("config")
    (folder / "curve.jsonl").write_text("{}")
    return Built({"loss": 1.5}, {"model": "model"})


def never(folder: Path) -> Built:
    raise AssertionError("built although a result is there")


@pytest.mark.parametrize(
    "other",
    [
        replace(IDENTITY, stage="align"),
        replace(IDENTITY, version=2),
        replace(IDENTITY, fields={"seed": 1, "sft": {"epochs": 2}}),
        replace(IDENTITY, fields={"seed": 0, "sft": {"epochs": 3}}),
        replace(IDENTITY, inputs=(CORPUS.model_copy(update={"digest": "d2"}),)),
        replace(IDENTITY, inputs=(CORPUS.model_copy(update={"name": "data.instructions"}),)),
        replace(IDENTITY, inputs=()),
        replace(IDENTITY, inputs=(CORPUS, CORPUS)),
    ],
)
def test_each_ingredient_changes_the_key(other):
    assert other.key != IDENTITY.key


def test_neither_the_place_of_an_input_nor_the_order_of_fields_changes_the_key():
    moved = replace(IDENTITY, inputs=(CORPUS.model_copy(update={"location": "elsewhere.jsonl"}),))
    reordered = replace(IDENTITY, fields={"sft": {"epochs": 2}, "seed": 0})
    assert IDENTITY.key == moved.key == reordered.key
    assert len(IDENTITY.key) == 32


def test_a_result_is_built_once_and_reused_by_another_process(tmp_path):
    built = Store(tmp_path).build(IDENTITY, make)
    reused = Store(tmp_path).build(IDENTITY, never)
    assert (built.reused, reused.reused) == (False, True)
    assert reused.result == built.result
    assert reused.path("model") == tmp_path / "sft" / IDENTITY.key / "model"
    assert (reused.path("model") / "weights").read_text() == "weights"


def test_the_result_names_its_identity_and_every_file(tmp_path):
    """sha256("weights") is taken with sha256sum."""
    result = read_result(Store(tmp_path).build(IDENTITY, make).folder)
    assert (result.stage, result.key, result.fields, result.inputs) == ("sft", IDENTITY.key, IDENTITY.fields, (CORPUS,))
    assert (result.metrics, result.outputs) == ({"loss": 1.5}, {"model": "model"})
    assert set(result.files) == {"curve.jsonl", "model/config", "model/weights"}
    assert result.files["model/weights"].size == 7
    assert result.files["model/weights"].sha256 == "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    assert result.environment["python"].startswith("3.")


def test_a_build_that_raises_leaves_its_partial_and_the_next_goes_on_from_there(tmp_path):
    def fail(folder: Path) -> Built:
        (folder / CHECKPOINT).mkdir()
        (folder / CHECKPOINT / "step").write_text("7")
        raise KeyboardInterrupt

    def resume(folder: Path) -> Built:
        return Built({"from": float((folder / CHECKPOINT / "step").read_text())}, make(folder).outputs)

    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.build(IDENTITY, fail)
    assert store.finished(IDENTITY) is None
    assert (tmp_path / "sft" / f"{IDENTITY.key}.partial" / CHECKPOINT / "step").exists()
    stored = store.build(IDENTITY, resume)
    assert stored.result.metrics == {"from": 7.0}
    assert not (stored.folder / CHECKPOINT).exists()
    assert not any(CHECKPOINT in name for name in stored.result.files)
    assert sorted(p.name for p in (tmp_path / "sft").iterdir() if p.is_dir()) == [IDENTITY.key]


class Crash(BaseException):
    """What the process dies of in these tests."""


def crash_at(monkeypatch, name: str) -> None:
    """The process dies when it would rename something to `name`."""
    rename = os.replace

    def dying(source, target):
        if Path(target).name == name:
            raise Crash
        rename(source, target)

    monkeypatch.setattr(os, "replace", dying)


def test_numbers_that_are_not_finite_are_refused_before_checkpoints_are_gone(tmp_path):
    def diverged(out: Path) -> Built:
        (out / CHECKPOINT).mkdir()
        (out / CHECKPOINT / "step").write_text("9")
        return Built({"loss": float("nan")}, {})

    with pytest.raises(ValueError, match="finite"):
        Store(tmp_path).build(IDENTITY, diverged)
    assert (tmp_path / "sft" / f"{IDENTITY.key}.partial" / CHECKPOINT / "step").exists()


@pytest.mark.parametrize("renamed", [RESULT, IDENTITY.key])
def test_a_crash_before_the_rename_leaves_no_result_and_the_next_build_heals(tmp_path, monkeypatch, renamed):
    with monkeypatch.context() as patch:
        crash_at(patch, renamed)
        with pytest.raises(Crash):
            Store(tmp_path).build(IDENTITY, make)
    assert Store(tmp_path).finished(IDENTITY) is None
    assert not Store(tmp_path).folder("sft", IDENTITY.key).exists()
    assert not Store(tmp_path).build(IDENTITY, make, WRITES).reused
    assert Store(tmp_path).build(IDENTITY, never).reused, "what was built after a crash is not trusted"


def _killed(root: Path) -> None:
    def die(folder: Path) -> Built:
        make(folder)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    Store(root).build(IDENTITY, die)


def test_a_killed_process_leaves_a_partial_and_frees_the_lock(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "sft" / f"{IDENTITY.key}.partial" / "model" / "weights").exists()
    assert Store(tmp_path).finished(IDENTITY) is None
    assert not Store(tmp_path).build(IDENTITY, make, WRITES).reused


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "model" / "weights").unlink(),
        lambda f: (f / "model" / "weights").write_text("wei9hts"),
        lambda f: (f / "curve.jsonl").write_text("{} "),
        lambda f: (f / "model" / "more").write_text("added"),
        lambda f: (f / RESULT).unlink(),
        lambda f: (f / RESULT).write_text("{"),
    ],
    ids=["deleted", "altered, same size", "longer", "added", "no result.json", "broken result.json"],
)
def test_damage_to_a_finished_folder_is_noticed_and_rebuilt(tmp_path, damage):
    folder = Store(tmp_path).build(IDENTITY, make).folder
    damage(folder)
    assert Store(tmp_path).finished(IDENTITY) is None
    assert not Store(tmp_path).build(IDENTITY, make).reused
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        "model/weights", "model/config", "curve.jsonl", RESULT,
    }  # fmt: skip
    assert Store(tmp_path).finished(IDENTITY) is not None


def test_a_result_rebuilt_in_the_same_process_replaces_what_the_process_remembered(tmp_path):
    store = Store(tmp_path)
    store.build(IDENTITY, make)
    store.build(IDENTITY, never)  # verified and remembered
    (tmp_path / "sft" / IDENTITY.key / RESULT).unlink()
    store.build(IDENTITY, lambda folder: Built({"loss": 2.5}, make(folder).outputs))
    assert store.finished(IDENTITY).result.metrics == {"loss": 2.5}


def _build_once(root: Path, log: Path, barrier, results) -> None:
    def slow(folder: Path) -> Built:
        with log.open("a") as stream:
            stream.write("built\n")
        time.sleep(0.7)
        return make(folder)

    barrier.wait(60)
    stored = Store(root).build(IDENTITY, slow)
    results.put((stored.reused, (stored.path("model") / "weights").read_text()))


def test_two_processes_that_build_one_key_build_it_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    arguments = (tmp_path / "store", tmp_path / "log", barrier, results)
    processes = [context.Process(target=_build_once, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    assert found == [(False, "weights"), (True, "weights")]
    assert (tmp_path / "log").read_text() == "built\n"


def build_with(root: Path, stage: str, **files: str):
    def write(folder: Path) -> Built:
        built = make(folder)
        for name, text in files.items():
            (folder / "model" / name if name == "weights" else folder / name).write_text(text)
        return built

    return Store(root).build(replace(IDENTITY, stage=stage), write).result.digest


def test_the_digest_covers_the_outputs_and_ignores_every_other_file(tmp_path):
    digest = build_with(tmp_path, "a")
    assert build_with(tmp_path, "b", **{"curve.jsonl": "other", "model_notes": "next to, not in, the output"}) == digest
    assert build_with(tmp_path, "c", weights="other") != digest


def test_an_origin_is_the_digest_of_the_outputs_or_of_one_file(tmp_path):
    def table(folder: Path) -> Built:
        (folder / "kept.parquet").write_text("weights")
        return Built({}, {"kept": "kept.parquet"})

    stored = Store(tmp_path).build(IDENTITY, table)
    assert stored.origin() == Origin(name="sft", digest=stored.result.digest, location=IDENTITY.key)
    one = stored.origin("kept")
    assert (one.name, one.digest) == ("sft.kept", stored.result.files["kept.parquet"].sha256)


def test_a_discarded_result_is_built_again(tmp_path):
    store = Store(tmp_path)
    store.build(IDENTITY, make)
    assert store.finished(IDENTITY)
    store.discard(IDENTITY)
    assert store.finished(IDENTITY) is None
    assert not store.build(IDENTITY, make).reused


def test_a_url_of_another_kind_is_refused():
    with pytest.raises(Refusal, match="gs://bucket/store") as refused:
        Store("gs://bucket/store")
    assert refused.value.where == "--store"


def test_an_interrupted_write_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_atomically(path, "old")
    crash_at(monkeypatch, "summary.json")
    with pytest.raises(Crash):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_result_json_is_plain_json(tmp_path):
    """Any tool can follow the lineage."""
    document = json.loads((Store(tmp_path).build(IDENTITY, make).folder / RESULT).read_text())
    assert document["inputs"] == [{"name": "data.corpus", "digest": "d1", "location": "corpus.jsonl"}]
