"""Whatever fails after a stage finished: report, JSON and MLflow runs of what did finish are there, and one more call goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["validate", "filter", "pretrain", "sft", "align", "evaluate", "register"]
OTHER = ("--set", "registry.model=other")  # nothing is registered under this name, so that only `register` is to be built

# Runs when an interpreter starts: the process that reloads an export finds a matrix of the checkpoint altered on the disk.
SPOIL = """
import sys

if "posttrain.checkpoints.round_trip" in sys.orig_argv:
    from safetensors.torch import load_file, save_file

    path = f"{sys.orig_argv[-1]}/checkpoint/model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.self_attn.v_proj.weight"] *= 1.5
    save_file(tensors, path, {"format": "pt"})
"""


@pytest.fixture
def failing(tiny, warm):
    """Runs the tiny recipe on a store, and asserts where it fails: its JSON and stderr."""

    def run(store: Path, code: int, stage: str, **variables: str) -> tuple[dict, str]:
        done = warm("run", tiny.recipe, "--store", store, "--json", *OTHER, cwd=tiny.folder, **variables)
        assert done.returncode == code, done.stderr
        document = json.loads(done.stdout)
        assert (document["status"], document["error"]["stage"]) == ("failed", stage)
        return document, done.stderr

    return run


def obstruct(folder: Path) -> None:
    """Put a file where a folder should be, executable as folders are: a look at permissions finds nothing amiss."""
    folder.write_text("")
    folder.chmod(0o755)


def assert_reported(document: dict, client) -> None:
    """The page says at its top what failed and what to do; the MLflow run has page and numbers, and is closed as failed."""
    page = Path(document["report"]).read_text("utf-8")
    top = page[: page.index("<section")]
    assert "✗ failed" in top
    assert f"the run failed in {document['error']['stage']}: " in top
    assert f"run the same command again: what is finished is kept, and it goes on from {document['error']['stage']}" in top
    assert json.loads(Path(document["report"]).with_name("result.json").read_text()) == document
    parent = client.get_run(document["run_id"])
    assert parent.info.status == "FAILED"
    assert "report.html" in {item.path for item in client.list_artifacts(document["run_id"])}
    evaluated = [stage["metrics"] for stage in document["stages"] if stage["name"] == "evaluate"]
    expected = evaluated[0] if evaluated else {}
    of_gates = ("validation_loss_falls", "mean_reward")  # made of what was measured, for gates
    assert {name: value for name, value in parent.data.metrics.items() if not name.startswith(of_gates)} == expected
    assert ("validation_loss_falls" in parent.data.metrics) == bool(evaluated)  # of the last training, which gates may ask for


def test_an_export_that_differs_is_refused_and_the_next_run_registers(copy, failing, again, client_of, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SPOIL)
    document, said = failing(copy, 2, "register", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert [stage["name"] for stage in document["stages"]] == STAGES[:-1]
    assert "register (checkpoint): found an export that" in document["error"]["message"]
    assert "first at model.layers.1.self_attn.v_proj" in document["error"]["message"]
    assert "refused  register (checkpoint)" in said
    assert "Traceback" not in said
    assert_reported(document, client_of(copy))

    mended = again(copy, *OTHER)
    assert mended.process.returncode == 0, mended.process.stderr
    assert mended.built == ["register"]
    assert (mended.report.run_id, mended.report.status, mended.report.error) == (document["run_id"], "finished", None)
    assert (mended.report.model.name, mended.report.model.version) == ("other", "1")
    assert client_of(copy).get_run(document["run_id"]).info.status == "FINISHED"


@pytest.mark.parametrize("stage", ["align", "register"])
def test_a_crash_keeps_its_traceback_and_what_was_finished_is_reported(copy, failing, again, client_of, stage):
    """A file where the stage's folder should be: nothing can be built there."""
    (copy / stage).rename(copy / "aside")
    obstruct(copy / stage)
    document, said = failing(copy, 1, stage)
    assert [each["name"] for each in document["stages"]] == STAGES[: STAGES.index(stage)]
    assert document["error"]["message"].startswith("FileExistsError: ")
    assert "Traceback" in said
    assert_reported(document, client_of(copy))

    (copy / stage).unlink()
    (copy / "aside").rename(copy / stage)
    mended = again(copy, *OTHER)
    assert (mended.process.returncode, mended.report.run_id) == (0, document["run_id"]), mended.process.stderr
    assert mended.built == ["register"]


def test_a_report_that_cannot_be_written_takes_no_result_with_it(copy, failing, again):
    """Its file is made a folder between two runs; the second has the id of the first, and registers."""
    (copy / "register").rename(copy / "aside")
    obstruct(copy / "register")
    document, _ = failing(copy, 1, "register")
    (copy / "register").unlink()
    written = Path(document["report"]).with_name("result.json")
    written.unlink()
    written.mkdir()
    document, said = failing(copy, 1, "report")
    assert document["model"]["uri"] == "models:/other@champion"
    assert document["error"]["message"].startswith("IsADirectoryError: ")
    assert "Traceback" in said

    written.rmdir()
    mended = again(copy, *OTHER)
    assert (mended.process.returncode, mended.built, mended.report.run_id) == (0, [], document["run_id"])
    assert written.is_file()
