"""What a store holds, what of it is needed, and what may go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from posttrain.runtime.inventory import damaged, discard, going_on, inventory, needed, unneeded
from posttrain.runtime.locks import locked
from posttrain.runtime.store import Built, StageKey, Store
from schemas.results import Origin

NOW, DAY = 1_800_000_000.0, 86400.0


def build(store: Store, stage: str, inputs: tuple[Origin, ...] = (), age: float = 0, **fields):
    """A finished result, last written `age` days before NOW."""

    def make(folder: Path) -> Built:
        (folder / "rows.jsonl").write_text("x" * 100)
        return Built({}, {"rows": "rows.jsonl"})

    stored = store.build(StageKey(stage, 1, fields, inputs), make, ("rows.jsonl",))
    touch(stored.folder, age)
    return stored


def touch(folder: Path, age: float) -> None:
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (NOW - age * DAY,) * 2)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def chain(store):
    """validate → sft → register, all 90 days old, and an sft of the same age that nothing was made from."""
    validate = build(store, "validate", age=90)
    sft = build(store, "sft", (validate.origin("rows"),), age=90)
    register = build(store, "register", (sft.origin(),), age=90)
    loose = build(store, "sft", (validate.origin("rows"),), age=90, seed=1)
    return {"validate": validate, "sft": sft, "register": register, "loose": loose}


def places(entries) -> set[tuple[str, str]]:
    return {entry.place for entry in entries}


def place(stored) -> tuple[str, str]:
    return stored.result.stage, stored.result.key


def test_results_are_listed_with_size_state_and_what_they_were_made_from(store, chain):
    entries = {entry.place: entry for entry in inventory(store)}
    assert set(entries) == {place(stored) for stored in chain.values()}
    sft = entries[place(chain["sft"])]
    assert sft.inputs == (place(chain["validate"]),)
    assert sft.size == sum(path.stat().st_size for path in chain["sft"].folder.rglob("*"))
    assert (sft.state, sft.used) == ("finished", NOW - 90 * DAY)
    assert [entry.stage for entry in inventory(store)] == ["validate", "sft", "sft", "register"]


def test_what_a_root_was_made_from_is_needed_and_the_rest_of_its_age_may_go(store, chain):
    entries = inventory(store)
    assert needed(entries, [place(chain["register"])], NOW) == {place(chain[name]) for name in ("validate", "sft", "register")}
    assert places(unneeded(entries, [place(chain["register"])], NOW - 30 * DAY)) == {place(chain["loose"])}
    assert places(unneeded(entries, [], NOW - 30 * DAY)) == {place(stored) for stored in chain.values()}
    assert unneeded(entries, [], NOW - 91 * DAY) == []


def test_what_a_newer_result_or_a_later_run_used_is_needed(store, chain):
    build(store, "align", (chain["sft"].origin(),), age=1)
    run = store.root / "runs" / "0a1b"
    run.mkdir(parents=True)
    report = run / "result.json"
    report.write_text(
        json.dumps({"stages": [{"name": "sft", "key": chain["loose"].result.key}, {"name": "../x", "key": "y"}, 3]})
    )
    os.utime(report, (NOW - 2 * DAY,) * 2)
    assert places(unneeded(inventory(store), [], NOW - 30 * DAY)) == {place(chain["register"])}
    (store.root / "runs" / "broken").mkdir()
    (store.root / "runs" / "broken" / "result.json").write_text("{" * 100)
    assert places(unneeded(inventory(store), [], NOW - 30 * DAY)) == {place(chain["register"])}


@pytest.mark.parametrize("age", [1, 90])
def test_an_interrupted_attempt_goes_when_it_is_old(store, age):
    partial = store.root / "sft" / f"{'0' * 32}.partial"
    partial.mkdir(parents=True)
    (partial / "curve.jsonl").write_text("{}")
    touch(partial, age)
    [entry] = inventory(store)
    assert entry.state == "partial"
    assert bool(unneeded([entry], [], NOW - 30 * DAY)) == (age == 90)


def test_what_a_process_builds_is_left(store, chain):
    entry = next(entry for entry in inventory(store) if entry.place == place(chain["loose"]))
    lock = Path(f"{entry.folder}.lock")
    with locked(lock):
        assert going_on(store) == [lock]
        assert not discard(entry)
    assert entry.folder.is_dir()
    assert going_on(store) == []
    assert discard(entry)
    assert not entry.folder.exists()


def test_damage_is_found_in_the_one_result_that_has_it(store, chain):
    assert list(damaged(inventory(store))) == []
    (chain["sft"].folder / "rows.jsonl").write_text("y" * 100)
    (chain["loose"].folder / "result.json").write_text("{}")
    found = {entry.place: what for entry, what in damaged(inventory(store))}
    assert found == {
        place(chain["sft"]): "rows.jsonl does not have the bytes of the manifest",
        place(chain["loose"]): "result.json cannot be read",
    }


def test_a_link_is_neither_followed_nor_listed(store, chain, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.root / "sft" / ("1" * 32)).symlink_to(outside)
    assert places(inventory(store)) == {place(stored) for stored in chain.values()}
