"""Checkpoints in a bucket: another machine goes on from the last whole one, and a damaged one is left aside."""

from __future__ import annotations

import pytest

from posttrain.runtime.partial import CHECKPOINT
from posttrain.runtime.remote import uploads
from posttrain.runtime.remote.uploads import newest
from posttrain.runtime.store import Built, StageKey

IDENTITY = StageKey("sft", 1, {"seed": 0})
WRITES = ("weights",)


class Killed(BaseException):
    """Stands for a signal."""


def checkpoint(folder, step: int) -> None:
    place = folder / CHECKPOINT / f"{step:09d}"
    place.mkdir(parents=True)
    (place / "state.pt").write_text(f"state {step}")


def killed_at(step: int):
    """A stage that ends by a signal after a checkpoint, with another one half written, and a curve beyond it."""

    def build(folder) -> Built:
        checkpoint(folder, step)
        (folder / CHECKPOINT / "writing").mkdir()
        (folder / CHECKPOINT / "writing" / "state.pt").write_text("half")
        (folder / "curve.jsonl").write_text("1\n2\n3\n")
        raise Killed

    return build


def going_on(seen: list):
    def build(folder) -> Built:
        seen.append((newest(folder), (folder / "curve.jsonl").read_text() if (folder / "curve.jsonl").exists() else None))
        (folder / "weights").write_text("w")
        return Built({}, {"weights": "weights"})

    return build


def build(store, make):
    return store.build(IDENTITY, make, WRITES)


def test_another_machine_goes_on_from_the_checkpoint(s3, store_on):
    with pytest.raises(Killed):
        build(store_on("one"), killed_at(7))
    seen: list = []
    two = store_on("two")
    build(two, going_on(seen))
    assert seen == [(7, "1\n2\n3\n")]
    left = [each["Key"] for each in s3.list_objects_v2(Bucket="posttrain")["Contents"]]
    assert not [name for name in left if ".partial" in name], "checkpoints of a finished stage"


def test_a_checkpoint_is_copied_while_training_goes_on(s3, store_on, monkeypatch):
    """Where the machine is lost a moment later, by kill -9 or a power cut, nothing runs any more that could copy it."""
    monkeypatch.setattr(uploads, "LOOK_SECONDS", 0.05)
    name = f"runs/sft/{IDENTITY.key}.partial/checkpoint.json"

    def train(folder) -> Built:
        checkpoint(folder, 3)
        s3.get_waiter("object_exists").wait(Bucket="posttrain", Key=name, WaiterConfig={"Delay": 1, "MaxAttempts": 20})
        return going_on([])(folder)

    build(store_on("one"), train)


def test_the_machine_s_own_checkpoint_counts_where_it_is_further(s3, store_on):
    with pytest.raises(Killed):
        build(store_on("one"), killed_at(7))
    partial = store_on("two").folder("sft", IDENTITY.key).with_name(f"{IDENTITY.key}.partial")
    partial.mkdir(parents=True)
    checkpoint(partial, 9)
    seen: list = []
    build(store_on("two"), going_on(seen))
    assert seen == [(9, None)]


def test_a_damaged_checkpoint_is_left_aside(s3, store_on):
    with pytest.raises(Killed):
        build(store_on("one"), killed_at(7))
    for each in s3.list_objects_v2(Bucket="posttrain")["Contents"]:
        if "/files/" in each["Key"]:
            s3.put_object(Bucket="posttrain", Key=each["Key"], Body=b"spoilt")
    seen: list = []
    build(store_on("two"), going_on(seen))
    assert seen == [(0, None)]
