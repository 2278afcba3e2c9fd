"""`posttrain store ls`, `verify` and `gc` on a finished run."""

from __future__ import annotations

import json
import os
import time

import pytest

YEAR = 365 * 86400


@pytest.fixture
def command(warm, tiny):
    """`posttrain store WORDS --json`: the process, and its document where it printed one."""

    def call(*words, **variables):
        done = warm("store", *words, "--json", cwd=tiny.folder, **variables)
        return done, json.loads(done.stdout) if done.stdout else None

    return call


@pytest.fixture
def old(copy):
    """A copy of the finished store that nobody has used for a year, with an attempt of the same age."""
    attempt = copy / "sft" / f"{'0' * 32}.partial"
    attempt.mkdir()
    (attempt / "curve.jsonl").write_text("{}\n" * 1000)
    then = time.time() - YEAR
    for path in (*copy.rglob("*"), copy):
        os.utime(path, (then, then), follow_symlinks=False)
    return copy


def test_every_result_of_the_run_is_listed_with_the_version_that_needs_it(finished, command, tiny, warm):
    done, found = command("ls", "--store", finished.store)
    assert done.returncode == 0, done.stderr
    assert {(each["stage"], each["key"]) for each in found["entries"]} == {(s.name, s.key) for s in finished.report.stages}
    assert all(each["versions"] == ["tiny/1"] for each in found["entries"])
    assert found["bytes"] == sum(each["bytes"] for each in found["entries"]) > 0
    shown = warm("store", "ls", "--store", finished.store, cwd=tiny.folder, COLUMNS="200").stdout
    assert "tiny/1" in shown
    assert "in 7 folders of" in shown


def test_one_changed_byte_is_found(copy, command, helpers):
    assert command("verify", "--store", copy)[1]["damaged"] == []
    weights = next((copy / "sft").rglob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done, found = command("verify", "--store", copy)
    assert done.returncode == 2
    [wrong] = found["damaged"]
    assert wrong["found"].endswith(f"{weights.name} does not have the bytes of the manifest")
    assert weights.is_relative_to(wrong["folder"])
    helpers.assert_helpful(done.stderr, ("1 of 7 results", wrong["folder"]))


def test_what_a_registered_version_needs_stays_and_the_rest_goes_only_when_asked(old, command, again):
    done, found = command("gc", "--store", old)
    assert done.returncode == 0, done.stderr
    assert [(each["state"], each["removed"]) for each in found["entries"]] == [("partial", False)]
    assert (old / "sft" / f"{'0' * 32}.partial").exists()
    done, found = command("gc", "--store", old, "--delete")
    assert found["removed_bytes"] == found["bytes"] == 3000
    assert not (old / "sft" / f"{'0' * 32}.partial").exists()
    assert again(old).built == []


def test_a_registry_that_knows_none_of_the_models_is_not_believed(old, command, helpers, tmp_path):
    other = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'other.db'}"}
    done, _ = command("gc", "--store", old, "--delete", **other)
    assert done.returncode == 2
    helpers.assert_helpful(done.stderr, ("registry that knows none", "--unregistered"))
    done, found = command("gc", "--store", old, "--unregistered", **other)
    assert {each["stage"] for each in found["entries"]} == {
        "validate", "filter", "pretrain", "sft", "align", "evaluate", "register",
    }  # fmt: skip
    assert not any(each["removed"] for each in found["entries"])
