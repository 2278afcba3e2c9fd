"""A disk that is full, or read-only, under a real run: on a file system of its own, which needs the right to mount one."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from schemas.results import RunReport

ROOM = 64 << 20  # of the file system; a finished store takes a part of it
LEFT = 40_000  # bytes that stay free: curves go on for a while, and neither checkpoint nor model of `pretrain` fits
LATER = ("pretrain", "sft", "align", "evaluate", "register")


@pytest.fixture
def disk(tmp_path) -> Path:
    """A small file system."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "none", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"this user may not mount a file system: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def store(disk, finished) -> Path:
    """The finished store without what `pretrain` and the stages after it have made."""
    store = Path(shutil.copytree(finished.store, disk / "store"))
    for stage in LATER:
        shutil.rmtree(store / stage)
    return store


def fill(disk: Path) -> Path:
    """Leave `LEFT` bytes free."""
    filler = disk / "filler"
    with filler.open("wb") as stream:
        stream.write(bytes(shutil.disk_usage(disk).free - LEFT))
    return filler


def wait_for(met, process) -> None:
    end = time.monotonic() + 300
    while not met():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("often", "begun"),
    [("0.05", "pretrain/*.partial/.checkpoint/0*"), ("1000", "pretrain/*.partial/curve.jsonl")],
    ids=["checkpoint", "final save"],
)
def test_a_full_disk_is_named_and_the_same_command_goes_on(disk, store, tiny, start_warm, warm, helpers, finished, often, begun):
    """What MLflow and Prefect cannot write either is their warnings; the run ends with one sentence and its code."""
    words = ("run", tiny.recipe, "--store", store, "--json", "--set", "registry=null")
    process = start_warm(*words, "--set", f"compute.checkpoint_seconds={often}", cwd=tiny.folder)
    wait_for(lambda: any(store.glob(begun)), process)
    filler = fill(disk)
    _, said = process.communicate(timeout=300)
    assert process.poll() == 1, said
    assert "Traceback" not in said, said
    assert "disk full: " in said
    assert str(store / "pretrain") in said
    kept = {path.name for path in store.glob("pretrain/*.partial/.checkpoint/0*")}
    assert len(kept) == (1 if often == "0.05" else 0)

    filler.unlink()
    done = warm(*words, cwd=tiny.folder)
    assert done.returncode == 0, done.stderr
    report = RunReport.model_validate_json(done.stdout)
    assert [stage.name for stage in report.stages if not stage.reused] == list(LATER[:-1])
    assert helpers.weights(report, "align") == helpers.weights(finished.report, "align")


def test_a_read_only_store_is_refused_before_anything_is_built(disk, store, tiny, warm, helpers):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = warm("run", tiny.recipe, "--store", store, cwd=tiny.folder)
    assert done.returncode == 2, done.stderr
    helpers.assert_helpful(done.stderr, (f"--store: found {store}", "may not write"))
