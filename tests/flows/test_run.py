"""`posttrain run` on a tiny recipe: what it prints, records, reuses, rebuilds and refuses. Each run is a process of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from schemas.results import RunReport

STAGES = ["validate", "filter", "pretrain", "sft", "align", "evaluate", "register"]


def test_json_is_one_document_on_stdout_and_progress_goes_to_stderr(finished):
    """`json.loads` refuses a second document or a stray line; the report's names are those of `RunReport`."""
    document = json.loads(finished.stdout)
    assert list(document) == list(RunReport.model_fields)
    assert [(stage.name, stage.reused) for stage in finished.report.stages] == [(name, False) for name in STAGES]
    assert "starting Prefect and MLflow" in finished.stderr
    steps = int(finished.report.stages[4].metrics["steps"])
    assert f"align training {steps} of {steps} in 0:" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert "it/s" not in finished.stderr  # the bars of transformers, MLflow and others


def test_the_run_has_one_finished_parent_in_mlflow_with_recipe_and_report(finished, client_of):
    client, run_id = client_of(finished.store), finished.report.run_id
    parent = client.get_run(run_id)
    top = [
        run.info.run_id
        for run in client.search_runs([parent.info.experiment_id])
        if "mlflow.parentRunId" not in run.data.tags
    ]  # fmt: skip
    assert top == [run_id]
    assert parent.info.status == "FINISHED"
    assert parent.data.params["alignment.beta"] == "0.1"
    assert {item.path for item in client.list_artifacts(run_id)} >= {"recipe.json", "report.html"}
    evaluated = next(stage.metrics for stage in finished.report.stages if stage.name == "evaluate")
    assert {name: parent.data.metrics[name] for name in evaluated} == evaluated


def test_every_built_stage_has_one_nested_run_with_its_numbers_and_inputs(finished, nested_of):
    nested = nested_of(finished.store, finished.report.run_id)
    assert [stage for stage, _ in nested] == STAGES
    for stage, (_, run) in zip(finished.report.stages, nested, strict=True):
        assert run.info.status == "FINISHED"
        assert run.data.tags["key"] == stage.key
        # `promoted` is decided after registration, and anew in every run.
        assert {"promoted": 1.0, **{name: run.data.metrics[name] for name in stage.metrics if name != "promoted"}} == {
            "promoted": 1.0, **stage.metrics
        }  # fmt: skip
    tags = dict(nested)["align"].data.tags
    assert {name for name in tags if name.startswith("input.")} == {"input.pretrain", "input.sft", "input.validate.preferences"}


def test_curve_and_adapter_are_in_the_nested_run_of_alignment(finished, client_of, nested_of):
    client, align = client_of(finished.store), dict(nested_of(finished.store, finished.report.run_id))["align"]
    folder = Path(next(stage.outputs["adapter"] for stage in finished.report.stages if stage.name == "align"))
    points = [json.loads(line) for line in (folder.parent / "curve.jsonl").read_text().splitlines()]
    logged = client.get_metric_history(align.info.run_id, "curve/loss")
    assert [(each.step, each.value) for each in logged] == [(point["step"], point["loss"]) for point in points if point["step"]]
    artifact = Path(client.download_artifacts(align.info.run_id, "adapter"))
    assert (artifact / "adapter_model.safetensors").read_bytes() == (folder / "adapter_model.safetensors").read_bytes()


def test_the_registered_version_is_champion_and_its_tags_walk_back_to_the_data(finished, client_of, tiny):
    """The digest of one source file is SHA-256 of the SHA-256 of its bytes (`source_digest` hashes digests)."""
    from hashlib import sha256

    version = client_of(finished.store).get_model_version_by_alias("tiny", "champion")
    model = finished.report.model
    assert (model.name, model.version, model.alias, model.uri) == (
        "tiny",
        str(version.version),
        "champion",
        "models:/tiny@champion",
    )
    assert version.run_id == finished.report.run_id
    expected = {
        "posttrain.key": finished.report.stages[-1].key, "posttrain.store": str(finished.store), "recipe": "tiny",
        "base_model": "scratch", "algorithm": "dpo", "method": "lora",
    }  # fmt: skip
    assert {name: version.tags.get(name) for name in expected} == expected
    for name in ("corpus", "instructions", "preferences"):
        content = Path(tiny.document["data"][name]).read_bytes()
        assert version.tags[f"digest.data.{name}"] == sha256(sha256(content).digest()).hexdigest()
    assert {"digest.pretrain", "digest.sft", "digest.align", "git_commit"} <= version.tags.keys()


def test_the_report_is_one_page_that_needs_nothing_else(finished):
    page = finished.report.report
    assert page.is_absolute()
    text = page.read_text("utf-8")
    assert text.lstrip().lower().startswith("<!doctype html>")
    assert all(stage in text for stage in STAGES)
    assert not any(loads in text for loads in ('src="http', 'href="http', "@import", "<link"))
    assert json.loads((page.parent / "result.json").read_text()) == json.loads(finished.stdout)


def test_a_second_run_reuses_every_stage_and_makes_no_nested_run(copy, finished, again, nested_of, helpers):
    second = again(copy)
    assert second.process.returncode == 0, second.process.stderr
    assert second.built == []
    assert [stage.key for stage in second.report.stages] == [stage.key for stage in finished.report.stages]
    assert second.report.run_id != finished.report.run_id
    assert nested_of(copy, second.report.run_id) == []
    assert second.report.model.version == finished.report.model.version
    assert second.report.stages[4].metrics == finished.report.stages[4].metrics


def test_another_beta_builds_align_evaluate_and_register_only(copy, finished, again, nested_of, client_of, helpers):
    """`promote_on` is null: passing the gates is enough, so the second version takes the alias."""
    other = again(copy, "--set", "alignment.beta=0.3")
    assert other.process.returncode == 0, other.process.stderr
    assert other.built == ["align", "evaluate", "register"]
    assert [stage for stage, _ in nested_of(copy, other.report.run_id)] == other.built
    assert helpers.weights(other.report, "align") != helpers.weights(finished.report, "align")
    assert str(client_of(copy).get_model_version_by_alias("tiny", "champion").version) == other.report.model.version == "2"


def test_a_gate_that_fails_exits_3_prints_the_report_and_leaves_the_alias(copy, finished, again, client_of):
    refused = again(copy, "--set", "evaluation.gates.validation_loss_falls.min=100")
    assert refused.process.returncode == 3
    assert refused.report.model is None
    assert [stage.name for stage in refused.report.stages] == STAGES[:-1]
    (gate,) = refused.report.gates
    assert (gate.name, gate.limit, gate.passed) == ("validation_loss_falls", {"min": 100}, False)
    measured = f"gate validation_loss_falls: measured {gate.value:.4g}"
    assert measured in refused.report.promotion
    assert "asked min 100" in refused.report.promotion
    assert measured in refused.process.stderr
    assert "Traceback" not in refused.process.stderr
    assert refused.report.report.is_file()
    assert [str(v.version) for v in client_of(copy).search_model_versions("name = 'tiny'")] == ["1"]
    assert str(client_of(copy).get_model_version_by_alias("tiny", "champion").version) == "1"


@pytest.fixture(scope="module")
def mended(finished, again, client_of, tmp_path_factory) -> SimpleNamespace:
    """A run on a store from which files were deleted by hand, and from whose registry the champion was deleted."""
    store = Path(shutil.copytree(finished.store, tmp_path_factory.mktemp("damaged") / "store"))
    (store / "pretrain" / finished.report.stages[2].key / "model" / "model.safetensors").unlink()
    (store / "align" / finished.report.stages[4].key / "adapter" / "adapter_config.json").unlink()
    client_of(store).delete_model_version("tiny", finished.report.model.version)
    run = again(store)
    assert run.process.returncode == 0, run.process.stderr
    return SimpleNamespace(store=store, report=run.report, built=run.built)


def test_results_with_a_file_deleted_by_hand_are_rebuilt_to_the_same_bytes(mended, finished, helpers):
    """The rebuilt outputs have the digests that SFT and evaluation were made from, so those are reused."""
    for stage in ("pretrain", "align"):
        assert helpers.weights(mended.report, stage) == helpers.weights(finished.report, stage)
    assert [stage for stage in mended.built if stage != "register"] == ["pretrain", "align"]


def test_a_champion_deleted_from_the_registry_is_registered_again(mended, finished, client_of):
    assert "register" in mended.built
    champion = client_of(mended.store).get_model_version_by_alias("tiny", "champion")
    assert str(champion.version) == mended.report.model.version == "2"
    assert champion.tags["posttrain.key"] == finished.report.stages[-1].key


def test_lineage_names_every_stage_the_data_by_digest_and_the_rows_left_out(finished, warm, tmp_path):
    done = warm("lineage", "models:/tiny@champion", "--store", finished.store, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    stages = {stage["stage"]: stage for stage in document["stages"]}
    assert sorted(stages) == sorted(set(STAGES) - {"evaluate"})  # its numbers judge a version, they do not make it
    keys = {stage.name: stage.key for stage in finished.report.stages}
    assert {name: stage["key"] for name, stage in stages.items()} == {name: keys[name] for name in stages}
    origins = {origin["name"]: origin["digest"] for stage in stages.values() for origin in stage["inputs"]}
    for name in ("corpus", "instructions", "preferences"):
        assert origins[f"data.{name}"] == document["tags"][f"digest.data.{name}"]
    left_out = [path for stage in stages.values() for path in stage["left_out_rows"]]
    assert {Path(path).relative_to(finished.store).parts[0] for path in left_out} == {"validate", "filter", "sft", "align"}
    assert all(isinstance(pl.read_parquet(path), pl.DataFrame) for path in left_out)
    order = list(stages)
    assert all(order.index(before) < order.index("align") for before in ("validate", "filter", "pretrain", "sft"))


def test_lineage_of_a_run_whose_stage_was_removed_is_refused(finished, warm, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(finished.store, store)
    shutil.rmtree(store / "sft")
    done = warm("lineage", finished.report.run_id, "--store", store, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "sft" in done.stderr
