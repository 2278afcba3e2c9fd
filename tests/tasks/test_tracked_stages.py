"""The nested MLflow run of a stage against a real SQLite file and a real server that comes and goes."""

from __future__ import annotations

import json

import pytest

from posttrain.pipeline.chain import Chain
from posttrain.runtime.store import Built, Store
from tasks import availability, live_curve, open_runs, tracked_stages, tracking
from tests.tasks.tracking_server import tracking_server, until


def test_a_stage_is_logged_once_with_fields_inputs_numbers_and_curve(unbuilt, mlflow_of, build):
    """One curve point has three numbers; `step` is the axis, not a metric. The marker run is closed as FINISHED."""
    run_id = tracking.start_run(unbuilt.recipe, unbuilt.store.root)
    stored = build(
        unbuilt, {"preferences_kept": 1.0}, '{"step": 4, "loss": 0.5, "tokens": 80}\n{"step": 8, "loss": 0.25, "tokens": 160}\n'
    )
    tracked_stages.log_stage(unbuilt, run_id, stored)
    tracked_stages.log_stage(unbuilt, run_id, stored)
    client = mlflow_of(unbuilt)
    experiment = client.get_run(run_id).info.experiment_id
    (nested,) = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert nested.info.status == "FINISHED"
    assert nested.data.tags["stage"] == "validate"
    assert nested.data.tags["input.data.preferences"] == unbuilt.source_origin("preferences").digest
    assert nested.data.params["holdout"] == "0.1"
    assert nested.data.metrics["preferences_kept"] == 1.0
    losses = client.get_metric_history(nested.info.run_id, "curve/loss")
    assert [(point.step, point.value) for point in losses] == [(4, 0.5), (8, 0.25)]
    assert len(client.get_metric_history(nested.info.run_id, "preferences_kept")) == 1
    assert {each.dataset.name for each in nested.inputs.dataset_inputs} == {"data.preferences"}
    assert "curve/step" not in nested.data.metrics
    assert "summary.json" in {item.path for item in client.list_artifacts(nested.info.run_id)}


def test_more_curve_points_than_mlflow_takes_in_one_call_are_all_logged(unbuilt, mlflow_of, build):
    run_id = tracking.start_run(unbuilt.recipe, unbuilt.store.root)
    points = "".join(f'{{"step": {step}, "loss": 1.0}}\n' for step in range(1, live_curve.BATCH + 2))
    tracked_stages.log_stage(unbuilt, run_id, build(unbuilt, {}, points))
    client = mlflow_of(unbuilt)
    (nested,) = client.search_runs([client.get_run(run_id).info.experiment_id], "tags.stage = 'validate'")
    assert len(client.get_metric_history(nested.info.run_id, "curve/loss")) == live_curve.BATCH + 1


def test_a_stage_that_fails_closes_its_nested_run_and_the_next_attempt_takes_it_up(unbuilt, tmp_path, mlflow_of):
    run_id = tracking.start_run(unbuilt.recipe, unbuilt.store.root)

    def fails(out) -> Built:
        raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        tracked_stages.tracked(unbuilt, run_id, "validate", fails, tmp_path)
    client = mlflow_of(unbuilt)
    experiment = client.get_run(run_id).info.experiment_id
    (failed,) = client.search_runs([experiment], "tags.stage = 'validate'")
    assert failed.info.status == "FAILED"
    assert tracked_stages.tracked(unbuilt, run_id, "validate", lambda out: Built({"x": 1.0}), tmp_path) == Built({"x": 1.0})
    (again,) = client.search_runs([experiment], "tags.stage = 'validate'")
    assert (again.info.run_id, again.info.status) == (failed.info.run_id, "RUNNING")


def test_a_stage_is_built_although_the_tracking_server_is_away(tmp_path, unreachable, caplog, a_recipe, build, report_of):
    chain = Chain(a_recipe(tmp_path, tracking={"uri": unreachable}), Store(tmp_path / "store"))
    assert tracked_stages.tracked(chain, "a-run", "validate", lambda out: Built({"x": 1.0}), tmp_path) == Built({"x": 1.0})
    tracked_stages.log_stage(chain, "a-run", build(chain, {}))
    tracking.finish_run(chain.recipe, chain.store.root, report_of("a-run", tmp_path), {})
    assert "finish_run failed" in caplog.text


def points(steps) -> str:
    return "".join(
        json.dumps({"step": step, "tokens": 10 * step, "seconds": step / 10, "loss": 1 / step}) + "\n" for step in steps
    )


def losses(chain, mlflow_of) -> list[tuple[int, float]]:
    """The points of the curve in MLflow, in order, each as often as it is there."""
    client = mlflow_of(chain)
    experiment = client.get_experiment_by_name(chain.recipe.tracking.experiment).experiment_id
    (nested,) = client.search_runs([experiment], "tags.stage = 'validate'")
    return sorted((point.step, point.value) for point in client.get_metric_history(nested.info.run_id, "curve/loss"))


@pytest.fixture
def quick(monkeypatch):
    """A curve that is sent ten times a second, to a server that is asked again as often."""
    monkeypatch.setattr(live_curve, "FLUSH_SECONDS", 0.1)
    monkeypatch.setattr("tasks.availability.AGAIN_SECONDS", 0.05)


def test_a_curve_is_live_and_a_resumed_stage_sends_no_point_twice(unbuilt, tmp_path, quick, mlflow_of):
    """The second attempt trains again from step 3, as from a checkpoint: what was sent of it is not sent again."""
    run_id = tracking.start_run(unbuilt.recipe, unbuilt.store.root)
    curve = tmp_path / "curve.jsonl"

    def interrupted(out):
        curve.write_text(points(range(1, 6)))
        until(lambda: len(losses(unbuilt, mlflow_of)) == 5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tracked_stages.tracked(unbuilt, run_id, "validate", interrupted, tmp_path)

    def resumed(out):
        curve.write_text(points(range(1, 4)))
        with curve.open("a") as stream:
            stream.write(points(range(4, 8)).replace('"seconds": 0', '"seconds": 7') + '{"step": 8, "lo')
        until(lambda: len(losses(unbuilt, mlflow_of)) == 7)
        return Built()

    tracked_stages.tracked(unbuilt, run_id, "validate", resumed, tmp_path)
    assert losses(unbuilt, mlflow_of) == [(step, 1 / step) for step in range(1, 8)]


@pytest.fixture
def server(tmp_path, helpers):
    with tracking_server(tmp_path, helpers.environment()) as found:
        yield found


def test_a_server_that_is_away_for_a_while_has_every_point_once_and_every_stage(
    tmp_path, server, quick, a_recipe, build, mlflow_of
):
    """It is away when the run begins, comes, is killed while a stage trains, and is back only after the stage is finished."""
    chain = Chain(a_recipe(tmp_path, tracking={"uri": server.address}), Store(tmp_path / "store"))
    run_id = tracking.start_run(chain.recipe, chain.store.root)

    def train(out):
        (out / "curve.jsonl").write_text(points(range(1, 4)))
        server.start()
        until(lambda: len(losses_if_any()) == 3)
        server.kill()
        (out / "curve.jsonl").write_text(points(range(1, 9)))
        return Built({"loss": 0.125})

    def losses_if_any():
        try:
            return losses(chain, mlflow_of)
        except (ValueError, AttributeError):  # no experiment or no nested run yet
            return []

    stored = chain.store.build(
        chain.identity("validate"), lambda out: tracked_stages.tracked(chain, run_id, "validate", train, out), ["curve.jsonl"]
    )
    tracked_stages.log_all(chain, run_id, stored)
    folder = open_runs.run_folder(chain.store.root, run_id, "run")
    assert (folder / "validate.unlogged").exists()
    server.start()
    until(lambda: availability.problem(server.address) is None)
    tracked_stages.log_all(chain, run_id)
    assert not (folder / "validate.unlogged").exists()
    assert losses(chain, mlflow_of) == [(step, 1 / step) for step in range(1, 9)]
    client = mlflow_of(chain)
    parent = tracking.parent_of(client, chain.recipe, chain.store.root, run_id)
    assert parent != run_id
    assert client.get_run(parent).info.run_name == "house"
    (nested,) = client.search_runs([client.get_run(parent).info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert (nested.info.status, nested.data.metrics["loss"]) == ("FINISHED", 0.125)
    tracked_stages.log_all(chain, run_id, stored)
    assert losses(chain, mlflow_of) == [(step, 1 / step) for step in range(1, 9)]
    assert len(client.get_metric_history(nested.info.run_id, "loss")) == 1
