"""What an interrupted attempt left: taken up where it is ours; where it is not, refused, and nothing is deleted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from posttrain.pipeline.stages import WORK
from posttrain.runtime.partial import CHECKPOINT, KINDS, RESUMED, take_up
from posttrain.runtime.store import RESULT, Built, StageKey, Store
from schemas.errors import Refusal

IDENTITY = StageKey("evaluate", 1, {"seed": 0})
WRITES = ("adapter", "model")


def make(folder: Path) -> Built:
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "weights").write_text("weights")
    return Built({"win_rate": 0.4}, {"model": "model"})


def never(folder: Path) -> Built:
    raise AssertionError("built in spite of what lies there")


@pytest.fixture
def victim(tmp_path) -> Path:
    """A folder outside the store."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "weights").write_text("weights")
    return tmp_path / "victim"


@pytest.fixture
def partial(tmp_path) -> Path:
    """What an attempt left that was killed while it wrote an adapter."""
    partial = Path(f"{Store(tmp_path / 'store').folder('evaluate', IDENTITY.key)}.partial")
    (partial / CHECKPOINT / "000000007").mkdir(parents=True)
    (partial / CHECKPOINT / "000000007" / "trainable.safetensors").write_text("7")
    (partial / "curve.jsonl").write_text("{}\n")
    (partial / "adapter").mkdir()
    (partial / "adapter" / "adapter_model.safetensors").write_text("hal")
    return partial


def test_an_attempt_is_taken_up_from_its_checkpoint_and_all_else_of_it_is_written_anew(tmp_path, partial):
    (partial / ".summary.json.tmp").write_text("half")
    (partial / RESULT).write_text("{}")
    seen = []

    def resume(out: Path) -> Built:
        seen.extend(str(path.relative_to(out)) for path in sorted(out.rglob("*")) if path.is_file())
        return make(out)

    stored = Store(tmp_path / "store").build(IDENTITY, resume, WRITES)
    assert seen == [f"{CHECKPOINT}/000000007/trainable.safetensors", "curve.jsonl"]
    assert set(stored.result.files) == {"curve.jsonl", "model/weights"}


def test_a_link_in_a_partial_is_refused_before_anything_is_written(tmp_path, partial, victim):
    """Training appends to the curve: through a link it would write into a file of the one who runs it."""
    (partial / "curve.jsonl").unlink()
    (partial / "curve.jsonl").symlink_to(victim / "weights")
    with pytest.raises(Refusal, match=r"curve\.jsonl is a link"):
        Store(tmp_path / "store").build(IDENTITY, never, WRITES)


def test_a_second_name_of_a_file_elsewhere_is_refused_in_a_partial(tmp_path, partial, victim):
    (partial / "curve.jsonl").unlink()
    os.link(victim / "weights", partial / "curve.jsonl")
    with pytest.raises(Refusal, match=r"curve\.jsonl is a hard link"):
        Store(tmp_path / "store").build(IDENTITY, never, WRITES)


def test_a_partial_that_is_a_link_is_refused(tmp_path, partial, victim):
    partial.rename(tmp_path / "moved")
    partial.symlink_to(victim)
    with pytest.raises(Refusal, match="no real folder"):
        Store(tmp_path / "store").build(IDENTITY, never, WRITES)
    assert [path.name for path in victim.iterdir()] == ["weights"]


FOREIGN = (
    "notes.txt", "adapter/delta.py", "adapter/sub/evil.so", "delta.py", "papers/thesis.txt", ".bashrc", "result.json/x",
)  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_what_the_stage_does_not_write_is_refused_and_nothing_is_deleted(tmp_path, partial, name):
    """`delta.py` would be run by whoever loads the adapter; a thesis is missed by whoever put it there."""
    (partial / name).parent.mkdir(parents=True, exist_ok=True)
    (partial / name).write_text("mine")
    before = sorted(partial.rglob("*"))
    with pytest.raises(Refusal, match="which the stage evaluate does not write"):
        Store(tmp_path / "store").build(IDENTITY, never, WRITES)
    assert sorted(partial.rglob("*")) == before


def test_an_empty_folder_that_is_not_the_stages_is_refused(tmp_path, partial):
    (partial / "papers").mkdir()
    with pytest.raises(Refusal, match=r"papers, which the stage"):
        Store(tmp_path / "store").build(IDENTITY, never, WRITES)


def test_what_every_stage_writes_is_taken_up_wherever_it_was_interrupted(finished, tmp_path):
    """Each finished result as the partial that it was before its last rename; a stage with a new file fails here."""
    assert set(WORK) >= {stage.name for stage in finished.report.stages} > {"validate", "align", "register"}
    for stage in finished.report.stages:
        partial = Path(shutil.copytree(finished.store / stage.name / stage.key, tmp_path / stage.name / "key.partial"))
        take_up(partial, WORK[stage.name].writes)
        assert {path.name for path in partial.iterdir()} <= set(RESUMED)


def test_no_kind_of_file_that_stages_write_is_code():
    assert not KINDS & {".py", ".pyc", ".so", ".sh", ".bin", ".pt", ".pkl", ".pth", ""}
