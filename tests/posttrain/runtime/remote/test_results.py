"""A store in a bucket, against a real server: one machine builds, another copies; damage, races and foreign paths."""

from __future__ import annotations

import json

import pytest

from posttrain.runtime.remote.bucket import Bucket
from posttrain.runtime.store import Built, StageKey, Store
from schemas.errors import Refusal

IDENTITY = StageKey("sft", 1, {"seed": 0})
PLACE = f"runs/sft/{IDENTITY.key}"


def make(text: str = "weights"):
    """Writes an output of two files and a log."""

    def build(folder) -> Built:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text(text)
        (folder / "model" / "config").write_text("config")
        (folder / "curve.jsonl").write_text("{}")
        return Built({"loss": 1.5}, {"model": "model"})

    return build


def never(folder) -> Built:
    raise AssertionError("built although a result is there")


def objects(s3) -> dict[str, int]:
    return {each["Key"]: each["Size"] for each in s3.list_objects_v2(Bucket="posttrain").get("Contents", ())}


def test_what_one_machine_builds_another_copies(s3, store_on):
    """The digest of the text `weights` is from sha256sum."""
    built = store_on("one").build(IDENTITY, make())
    copied = store_on("two").build(IDENTITY, never)
    assert (built.reused, copied.reused) == (False, True)
    assert copied.result == built.result
    assert copied.folder != built.folder
    assert (copied.path("model") / "weights").read_text() == "weights"
    assert f"{PLACE}/files/9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c" in objects(s3)
    assert not [name for name in objects(s3) if ".lease" in name or ".partial" in name]


def test_without_a_manifest_nothing_is_there(s3, store_on):
    """As after a kill in the middle of an upload: the files count for nothing, and are not sent again."""
    store_on("one").build(IDENTITY, make())
    s3.delete_object(Bucket="posttrain", Key=f"{PLACE}/result.json")
    assert store_on("two").finished(IDENTITY) is None
    assert not store_on("two").build(IDENTITY, make()).reused
    assert store_on("three").finished(IDENTITY)


def test_a_result_whose_upload_was_cut_is_shared_by_the_next_run(s3, store_on):
    store_on("one").build(IDENTITY, make())
    s3.delete_object(Bucket="posttrain", Key=f"{PLACE}/result.json")
    assert store_on("one").build(IDENTITY, never).reused
    assert store_on("two").finished(IDENTITY)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_object_is_not_believed_and_is_built_again(s3, store_on, damage):
    """The second builder writes other bytes; afterwards every machine has these."""
    store_on("one").build(IDENTITY, make())
    key = f"{PLACE}/files/9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    if damage == "changed":
        s3.put_object(Bucket="posttrain", Key=key, Body=b"WEIGHTS")
    else:
        s3.delete_object(Bucket="posttrain", Key=key)
    two = store_on("two")
    assert two.finished(IDENTITY) is None
    assert not two.build(IDENTITY, make("others")).reused
    assert (store_on("three").finished(IDENTITY).path("model") / "weights").read_text() == "others"


def test_of_two_writers_the_first_counts_for_both(s3, store_on):
    """They did not see each other, as when a lease was lost: the second takes over what the first has finished."""
    one, two = store_on("one"), store_on("two")

    def slow(folder) -> Built:
        built = make("of two")(folder)
        s3.delete_object(Bucket="posttrain", Key=f"{PLACE}.lease")
        one.build(IDENTITY, make("of one"))
        return built

    second = two.build(IDENTITY, slow)
    assert second.reused
    assert (second.path("model") / "weights").read_text() == "of one"
    assert second.result == one.finished(IDENTITY).result


def test_a_manifest_that_names_a_file_outside_is_refused(s3, store_on, tmp_path):
    store_on("one").build(IDENTITY, make())
    document = json.loads(s3.get_object(Bucket="posttrain", Key=f"{PLACE}/result.json")["Body"].read())
    document["files"]["../../../evil"] = document["files"].pop("curve.jsonl")
    s3.put_object(Bucket="posttrain", Key=f"{PLACE}/result.json", Body=json.dumps(document).encode())
    with pytest.raises(Refusal, match="leads out of"):
        store_on("two").finished(IDENTITY)
    assert not list(tmp_path.rglob("evil"))


def test_a_local_copy_that_was_damaged_is_copied_anew(s3, store_on):
    folder = store_on("one").build(IDENTITY, make()).folder
    (folder / "model" / "weights").write_text("WEIGHTS")
    assert (store_on("one").finished(IDENTITY).path("model") / "weights").read_text() == "weights"


def test_a_process_that_is_given_the_local_folder_finds_the_bucket(s3, store_on):
    one = store_on("one")
    assert Store(one.root).address == "s3://posttrain/runs"
    Store(one.root).build(IDENTITY, make())
    assert store_on("two").finished(IDENTITY)


def test_a_folder_from_elsewhere_that_names_a_bucket_is_refused(s3, store_on, tmp_path):
    """A stranger's store would have results sent to a bucket of his choice, with this user's credentials."""
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "remote.json").write_text(json.dumps({"address": "s3://posttrain/his"}))
    with pytest.raises(Refusal, match=r"given, whose remote\.json names the bucket s3://posttrain/his"):
        Store(tmp_path / "given")
    (tmp_path / "given" / "remote.json").unlink()
    assert Store(tmp_path / "given").address == str(tmp_path / "given")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://absent/x", "NoSuchBucket"),
        ("s3://key:secret@posttrain/x", "no address of a bucket"),
        ("s3://posttrain/../x", "no address of a bucket"),
        ("gs://posttrain/x", "no address of a bucket"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused(s3, address, said):
    with pytest.raises(Refusal, match=said) as refused:
        Store(address)
    assert "secret" not in str(refused.value)


def test_a_service_that_ignores_conditions_is_refused(s3, monkeypatch):
    """Two writers would not see each other. Its absence is put in by a client that leaves the header away."""
    put = Bucket._put
    monkeypatch.setattr(Bucket, "_put", lambda self, name, content, condition: put(self, name, content, {}))
    with pytest.raises(Refusal, match="If-None-Match"):
        Store("s3://posttrain/plain")
