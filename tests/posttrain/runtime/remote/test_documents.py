"""Documents by which processes tell each other where they are: the same in a folder and in a bucket."""

from __future__ import annotations

import pytest

from posttrain.runtime.liveness import is_dead, note_of_this_process, noted, read_note
from posttrain.runtime.remote import documents
from posttrain.runtime.store import Store


@pytest.fixture(params=["folder", "bucket"])
def machines(request, tmp_path):
    """The root of two machines twice. Of a bucket none lies in it but one too deep: what one reads, all could."""
    if request.param == "folder":
        root = Store(tmp_path / "store").root
        yield root, root
        return
    root = request.getfixturevalue("store_on")("one").root
    yield root, root
    assert {path.name for path in root.rglob("*") if path.is_file()} <= {"remote.json", "c.process.json"}


def test_what_one_machine_writes_another_reads_and_removes(machines):
    one, two = machines
    documents.write(one / "runs" / "r1" / "sft.json", "{}")
    assert documents.read(two / "runs" / "r1" / "sft.json") == b"{}"
    assert 0 <= documents.age(two / "runs" / "r1" / "sft.json") < 60
    assert documents.read(two / "runs" / "r1" / "sft.json", limit=1) is None
    documents.remove(two / "runs" / "r1" / "sft.json")
    documents.remove(two / "runs" / "r1" / "sft.json")
    assert documents.read(one / "runs" / "r1" / "sft.json") is None
    assert documents.age(one / "runs" / "r1" / "sft.json") is None


def test_those_of_a_kind_are_found_one_folder_down_and_no_further(machines):
    one, two = machines
    for name in ("a.process.json", "r1/b.process.json", "r1/x/c.process.json", "r1/b.json"):
        documents.write(one / "runs" / name, "{}")
    found = documents.matching(two / "runs", "*.process.json")
    assert sorted(path.relative_to(two / "runs").as_posix() for path in found) == ["a.process.json", "r1/b.process.json"]


def test_a_process_is_seen_to_live_from_another_machine(machines):
    one, two = machines
    place = ("runs", "r1", "sft.process.json")
    with noted(one.joinpath(*place), note_of_this_process("sft", "1")):
        seen = read_note(two.joinpath(*place))
        assert seen.what == "sft"
        assert not is_dead(two.joinpath(*place), seen)
        assert not is_dead(two.joinpath(*place), seen.model_copy(update={"machine": "another"}))
    assert read_note(two.joinpath(*place)) is None
