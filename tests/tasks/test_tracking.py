"""MLflow tracking against a real SQLite file: what is recorded, and that its failures end no run."""

from __future__ import annotations

import logging
import socket

import pytest

from posttrain.pipeline.chain import Chain
from posttrain.runtime.store import Built, Store
from schemas.recipe import Recipe
from schemas.results import RunReport
from tasks import tracking

ROW = '{"prompt": "How was the soup?", "chosen": "Warm.", "rejected": "Cold."}\n'


def a_recipe(folder, **sections) -> Recipe:
    """A recipe with one preference pair in a file of `folder`."""
    (folder / "pairs.jsonl").write_text(ROW)
    document = {
        "name": "house",
        "model": {"source": "local", "path": str(folder)},
        "data": {"preferences": str(folder / "pairs.jsonl")},
        "alignment": {"algorithm": "dpo"},
    }
    return Recipe.model_validate(document | sections)


@pytest.fixture
def unreachable(monkeypatch) -> str:
    """The address of a tracking server that is away, asked once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def chain(tmp_path, root) -> Chain:
    return Chain(a_recipe(tmp_path), Store(root))


def client_of(chain: Chain):
    return tracking.connect(tracking.tracking_uri(chain.recipe, chain.store.root), chain.store.root)


def build(chain: Chain, metrics: dict[str, float], curve: str = ""):
    """A finished `validate` stage, as its task builds one."""

    def make(out):
        (out / "summary.json").write_text("{}")
        (out / "curve.jsonl").write_text(curve)
        return Built(metrics, {"summary": "summary.json"})

    return chain.store.build(chain.identity("validate"), make)


def test_a_failure_in_a_never_fatal_call_is_a_warning_that_names_it(caplog):
    @tracking.never_fatal
    def log_numbers(a, *, b):
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.WARNING):
        assert log_numbers(1, b=2) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "log_numbers" in caplog.text
    assert "No space left on device" in caplog.text


def test_a_never_fatal_call_that_works_keeps_its_arguments_value_and_name():
    @tracking.never_fatal
    def add(a, *, b):
        """Adds."""
        return a + b

    assert (add(1, b=2), add.__name__, add.__doc__) == (3, "add", "Adds.")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_person_who_stops_the_run_is_not_a_tracking_failure(stop):
    @tracking.never_fatal
    def interrupted():
        raise stop

    with pytest.raises(stop):
        interrupted()


def test_flatten_gives_dotted_names_and_text_and_keeps_what_is_empty_or_null():
    document = {"a": 1, "b": {"c": None, "d": {"e": [1, 2]}, "f": {}}, "g": 0.5, "h": False}
    assert tracking.flatten(document) == {"a": "1", "b.c": "None", "b.d.e": "[1, 2]", "b.f": "{}", "g": "0.5", "h": "False"}
    assert tracking.flatten({"x": 1}, "up.") == {"up.x": "1"}
    assert tracking.flatten({}) == {}


def report_of(run_id: str, folder, status: str = "finished") -> RunReport:
    """The report of a run without stages, and its page."""
    page = folder / "report.html"
    page.write_text("<html>")
    return RunReport(run_id=run_id, status=status, seconds=1, stages=(), gates=(), model=None, report=page, promotion="")


def test_an_open_run_is_taken_up_and_a_finished_one_is_not(chain, tmp_path):
    recipe, root = chain.recipe, chain.store.root
    first = tracking.start_run(recipe, root)
    assert tracking.start_run(recipe, root) == first
    tracking.finish_run(recipe, root, report_of(first, tmp_path), {"kl_per_token": 0.25})
    done = client_of(chain).get_run(first)
    assert (done.info.status, done.data.metrics) == ("FINISHED", {"kl_per_token": 0.25})
    assert tracking.start_run(recipe, root) != first


def test_a_run_that_failed_has_its_numbers_and_report_and_is_taken_up(chain, tmp_path):
    recipe, root, client = chain.recipe, chain.store.root, client_of(chain)
    first = tracking.start_run(recipe, root)
    tracking.finish_run(recipe, root, report_of(first, tmp_path, "failed"), {"kl_per_token": 0.25})
    failed = client.get_run(first)
    assert (failed.info.status, failed.data.metrics) == ("FAILED", {"kl_per_token": 0.25})
    assert "report.html" in {item.path for item in client.list_artifacts(first)}
    assert tracking.start_run(recipe, root) == first
    assert client.get_run(first).info.status == "RUNNING"


def test_a_run_is_closed_although_its_report_cannot_be_logged(chain, tmp_path, caplog):
    run_id = tracking.start_run(chain.recipe, chain.store.root)
    report = report_of(run_id, tmp_path).model_copy(update={"report": tmp_path / "nowhere.html"})
    tracking.finish_run(chain.recipe, chain.store.root, report, {})
    assert "finish_run failed" in caplog.text
    assert client_of(chain).get_run(run_id).info.status == "FINISHED"


def test_another_recipe_does_not_take_up_an_open_run(chain, tmp_path):
    first = tracking.start_run(chain.recipe, chain.store.root)
    other = a_recipe(tmp_path, seed=1)
    assert tracking.start_run(other, chain.store.root) != first


def test_a_parameter_longer_than_mlflow_takes_is_cut_to_its_limit(tmp_path, root):
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

    names = [f"proj{number:05d}" for number in range(1000)]  # 13 characters each as text: 13,000 in all
    peft = {"method": "lora", "target_modules": names}
    chain = Chain(a_recipe(tmp_path, alignment={"algorithm": "dpo", "peft": peft}), Store(root))
    run = client_of(chain).get_run(tracking.start_run(chain.recipe, chain.store.root))
    value = run.data.params["alignment.peft.target_modules"]
    assert tracking.PARAM_LENGTH == MAX_PARAM_VAL_LENGTH
    assert value == str(names)[:MAX_PARAM_VAL_LENGTH]


def test_a_stage_is_logged_once_with_fields_inputs_numbers_and_curve(chain):
    """One curve point has three numbers; `step` is the axis, not a metric. The marker run is closed as FINISHED."""
    run_id = tracking.start_run(chain.recipe, chain.store.root)
    stored = build(chain, {"preferences_kept": 1.0}, '{"step": 4, "loss": 0.5, "tokens": 80}\n{"step": 8, "loss": 0.25}\n')
    tracking.log_stage(chain, run_id, stored)
    tracking.log_stage(chain, run_id, stored)
    client = client_of(chain)
    experiment = client.get_run(run_id).info.experiment_id
    (nested,) = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert nested.info.status == "FINISHED"
    assert nested.data.tags["stage"] == "validate"
    assert nested.data.tags["input.data.preferences"] == chain.source_origin("preferences").digest
    assert nested.data.params["holdout"] == "0.1"
    assert nested.data.metrics["preferences_kept"] == 1.0
    losses = client.get_metric_history(nested.info.run_id, "curve/loss")
    assert sorted({(point.step, point.value) for point in losses}) == [(4, 0.5), (8, 0.25)]
    assert "curve/step" not in nested.data.metrics
    assert "summary.json" in {item.path for item in client.list_artifacts(nested.info.run_id)}


def test_more_curve_points_than_mlflow_takes_in_one_call_are_all_logged(chain):
    run_id = tracking.start_run(chain.recipe, chain.store.root)
    points = "".join(f'{{"step": {step}, "loss": 1.0}}\n' for step in range(1, tracking.BATCH + 2))
    tracking.log_stage(chain, run_id, build(chain, {}, points))
    client = client_of(chain)
    (nested,) = client.search_runs([client.get_run(run_id).info.experiment_id], "tags.stage = 'validate'")
    assert len(client.get_metric_history(nested.info.run_id, "curve/loss")) == tracking.BATCH + 1


def test_a_stage_that_fails_closes_its_nested_run_and_the_next_attempt_takes_it_up(chain):
    run_id = tracking.start_run(chain.recipe, chain.store.root)

    def fails() -> Built:
        raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        tracking.tracked(chain, run_id, "validate", fails)
    client = client_of(chain)
    experiment = client.get_run(run_id).info.experiment_id
    (failed,) = client.search_runs([experiment], "tags.stage = 'validate'")
    assert failed.info.status == "FAILED"
    assert tracking.tracked(chain, run_id, "validate", lambda: Built({"x": 1.0})) == Built({"x": 1.0})
    (again,) = client.search_runs([experiment], "tags.stage = 'validate'")
    assert (again.info.run_id, again.info.status) == (failed.info.run_id, "RUNNING")


def test_a_stage_is_built_although_the_tracking_server_is_away(tmp_path, unreachable, caplog):
    chain = Chain(a_recipe(tmp_path, tracking={"uri": unreachable}), Store(tmp_path / "store"))
    assert tracking.tracked(chain, "a-run", "validate", lambda: Built({"x": 1.0})) == Built({"x": 1.0})
    tracking.log_stage(chain, "a-run", build(chain, {}))
    tracking.finish_run(chain.recipe, chain.store.root, report_of("a-run", tmp_path), {})
    assert "finish_run failed" in caplog.text


def test_a_run_starts_although_the_tracking_server_is_away(tmp_path, unreachable):
    """`tasks/tracking.py`: a failure here is a warning, never the end of a run. The run has an id all the same."""
    recipe = a_recipe(tmp_path, tracking={"uri": unreachable})
    run_id = tracking.start_run(recipe, tmp_path / "store")
    assert run_id
    assert tracking.start_run(recipe, tmp_path / "store") == run_id
