"""MLflow tracking against a real SQLite file: what is recorded, and that its failures end no run."""

from __future__ import annotations

import logging

import pytest

from posttrain.pipeline.chain import Chain
from posttrain.runtime.store import Store
from tasks import tracking
from tasks.turns import this_user


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


def test_an_open_run_is_taken_up_and_a_finished_one_is_not(unbuilt, tmp_path, mlflow_of, report_of):
    recipe, root = unbuilt.recipe, unbuilt.store.root
    first = tracking.start_run(recipe, root)
    assert tracking.start_run(recipe, root) == first
    tracking.finish_run(recipe, root, report_of(first, tmp_path), {"kl_per_token": 0.25})
    done = mlflow_of(unbuilt).get_run(first)
    assert (done.info.status, done.data.metrics) == ("FINISHED", {"kl_per_token": 0.25})
    assert tracking.start_run(recipe, root) != first


def test_a_run_that_failed_has_its_numbers_and_report_and_is_taken_up(unbuilt, tmp_path, mlflow_of, report_of):
    recipe, root, client = unbuilt.recipe, unbuilt.store.root, mlflow_of(unbuilt)
    first = tracking.start_run(recipe, root)
    tracking.finish_run(recipe, root, report_of(first, tmp_path, "failed"), {"kl_per_token": 0.25})
    failed = client.get_run(first)
    assert (failed.info.status, failed.data.metrics) == ("FAILED", {"kl_per_token": 0.25})
    assert "report.html" in {item.path for item in client.list_artifacts(first)}
    assert tracking.start_run(recipe, root) == first
    assert client.get_run(first).info.status == "RUNNING"


def test_a_run_is_closed_although_its_report_cannot_be_logged(unbuilt, tmp_path, caplog, mlflow_of, report_of):
    run_id = tracking.start_run(unbuilt.recipe, unbuilt.store.root)
    report = report_of(run_id, tmp_path).model_copy(update={"report": tmp_path / "nowhere.html"})
    tracking.finish_run(unbuilt.recipe, unbuilt.store.root, report, {})
    assert "finish_run failed" in caplog.text
    assert mlflow_of(unbuilt).get_run(run_id).info.status == "FINISHED"


def test_another_recipe_does_not_take_up_an_open_run(unbuilt, tmp_path, a_recipe):
    first = tracking.start_run(unbuilt.recipe, unbuilt.store.root)
    other = a_recipe(tmp_path, seed=1)
    assert tracking.start_run(other, unbuilt.store.root) != first


def test_a_parameter_longer_than_mlflow_takes_is_cut_to_its_limit(tmp_path, root, a_recipe, mlflow_of):
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

    names = [f"proj{number:05d}" for number in range(1000)]  # 13 characters each as text: 13,000 in all
    peft = {"method": "lora", "target_modules": names}
    chain = Chain(a_recipe(tmp_path, alignment={"algorithm": "dpo", "peft": peft}), Store(root))
    run = mlflow_of(chain).get_run(tracking.start_run(chain.recipe, chain.store.root))
    value = run.data.params["alignment.peft.target_modules"]
    assert tracking.PARAM_LENGTH == MAX_PARAM_VAL_LENGTH
    assert value == str(names)[:MAX_PARAM_VAL_LENGTH]


def test_a_run_starts_although_the_tracking_server_is_away(tmp_path, unreachable, a_recipe):
    """`tasks/tracking.py`: a failure here is a warning, never the end of a run. The run has an id all the same."""
    recipe = a_recipe(tmp_path, tracking={"uri": unreachable})
    run_id = tracking.start_run(recipe, tmp_path / "store")
    assert run_id
    assert tracking.start_run(recipe, tmp_path / "store") == run_id


def test_the_page_of_a_run_says_who_started_it_and_what_it_does(unbuilt, mlflow_of, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")  # and no flow run around it
    tags = mlflow_of(unbuilt).get_run(tracking.start_run(unbuilt.recipe, unbuilt.store.root)).data.tags
    assert tags["mlflow.user"] == this_user()
    assert tags["mlflow.source.name"] == "posttrain house"
    assert tags["mlflow.note.content"].startswith("Recipe `house`: validate, align, evaluate.")
    assert "Prefect" not in tags["mlflow.note.content"]
