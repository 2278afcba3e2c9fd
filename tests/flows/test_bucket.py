"""A store in a bucket of a real S3-compatible server, through the real command line, by machines with nothing else in common.

A machine here is a process with a local folder of its own; what they share besides the bucket is the MLflow registry.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from posttrain.runtime.integrity import read_result
from posttrain.runtime.inventory import inventory
from posttrain.runtime.remote import place
from posttrain.runtime.store import Store
from schemas.results import RunReport

QUICKSTART = Path(__file__).parents[2] / "deployments" / "recipes" / "quickstart.yaml"
STAGES = ["validate", "filter", "pretrain", "sft", "align", "evaluate", "register"]
LATER = ("evaluate", "register")
YEAR = 365 * 86400


def _wait(met, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture
def machine(s3, tmp_path, request):
    """The variables of a machine, and the address of the test's store."""
    address = f"s3://posttrain/{request.node.name.replace('[', '-').replace(']', '')}"

    def named(name: str) -> dict[str, str]:
        registry = f"sqlite:///{tmp_path / 'registry.db'}"
        return s3.variables | {place.SCRATCH: str(tmp_path / name), "MLFLOW_TRACKING_URI": registry}

    return SimpleNamespace(variables=named, address=address, objects=lambda: _names(s3.client, address))


def _names(client, address: str) -> list[str]:
    prefix = address.removeprefix("s3://posttrain/") + "/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="posttrain", Prefix=prefix)
    return [each["Key"].removeprefix(prefix) for page in pages for each in page.get("Contents", ())]


def report_of(process, printed: tuple[str, str]) -> RunReport:
    assert process.returncode == 0, printed[1]
    return RunReport.model_validate_json(printed[0])


def built(report: RunReport) -> list[str]:
    return [stage.name for stage in report.stages if not stage.reused]


@pytest.fixture
def put(machine, finished, monkeypatch):
    """Put the stages of the finished run into the test's store, but some."""

    def put(*left_out: str) -> None:
        for name, value in machine.variables("who put it there").items():
            monkeypatch.setenv(name, value)
        store = Store(machine.address)
        for entry in inventory(Store(finished.store)):
            if entry.stage not in left_out:
                store._side.share(entry.folder, read_result(entry.folder))

    return put


def test_a_run_on_a_bucket_is_reused_by_another_machine(machine, put, tiny, warm, finished, helpers):
    """All but the last two stages of the finished run are put there, which the first machine copies and goes on from."""
    put(*LATER)

    def run(name: str) -> RunReport:
        done = warm("run", tiny.recipe, "--store", machine.address, "--json", cwd=tiny.folder, **machine.variables(name))
        return report_of(done, (done.stdout, done.stderr))

    one = run("first")
    assert built(one) == [*LATER]
    assert {f"runs/{one.run_id}/report.html", f"runs/{one.run_id}/result.json"} < set(machine.objects())
    two = run("second")
    assert built(two) == []
    assert helpers.weights(two, "align") == helpers.weights(one, "align") == helpers.weights(finished.report, "align")
    assert not [name for name in machine.objects() if ".lease" in name or ".partial" in name]


@pytest.fixture
def aged(machine, put, finished):
    """The store as a machine has it that has reused every result in a run, a year ago, and left an attempt then."""
    put()
    store = Store(machine.address)
    assert all(store._side.pull(store.folder(entry.stage, entry.key)) for entry in inventory(Store(finished.store)))
    shutil.copytree(finished.store / "runs" / finished.report.run_id, store.root / "runs" / finished.report.run_id)
    attempt = store.root / "sft" / f"{'0' * 32}.partial"
    attempt.mkdir()
    (attempt / "curve.jsonl").write_text("{}\n")
    then = time.time() - YEAR
    for path in store.root.rglob("*"):
        os.utime(path, (then, then))
    return store


@pytest.mark.parametrize("known", [True, False], ids=["registered", "of no registry"])
def test_gc_takes_what_nothing_needs_from_the_copy_of_the_machine_and_all_stays_in_the_bucket(
    machine, aged, finished, tiny, warm, tmp_path, known
):
    """What has gone is copied again when it is needed."""
    there = machine.objects()
    own = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{(finished.store if known else tmp_path) / 'tracking' / 'mlflow.db'}"}
    variables = {name: own[name] for name in machine.variables("")}
    words = ("store", "gc", "--store", machine.address, "--delete", *(() if known else ("--unregistered",)))
    listed = warm(*words[:4], *words[5:], cwd=tiny.folder, **variables)
    assert "the copy that this machine has" in listed.stderr
    done = warm(*words, "--json", cwd=tiny.folder, **variables)
    assert done.returncode == 0, done.stderr
    gone = json.loads(done.stdout)["entries"]
    assert all(each["removed"] for each in gone)
    assert [each["state"] for each in gone].count("partial") == 1
    assert {each["stage"] for each in gone if each["state"] == "finished"} == (set() if known else set(STAGES))
    assert {entry.stage for entry in inventory(aged)} == (set(STAGES) if known else set())
    assert machine.objects() == there
    assert all(aged._side.pull(aged.folder(stage.name, stage.key)) for stage in finished.report.stages)
    verified = warm("store", "verify", "--store", machine.address, "--json", cwd=tiny.folder, **variables)
    assert json.loads(verified.stdout)["results"] == len(STAGES)
    assert json.loads(verified.stdout)["damaged"] == []


def test_models_are_not_registered_in_a_file_of_one_machine(machine, tiny, call, monkeypatch, helpers):
    for name, value in machine.variables("first").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    done = call("run", tiny.recipe, "--store", machine.address)
    assert done.code == 2
    helpers.assert_helpful(done.err, ("tracking.uri: found no MLflow server", "MLFLOW_TRACKING_URI"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quickstart_completes_on_a_bucket_and_its_repetition_is_reused_elsewhere(machine, tmp_path, cli):
    def run(name: str) -> RunReport:
        began = time.monotonic()
        done = cli("run", QUICKSTART, "--store", machine.address, "--json", cwd=tmp_path, seconds=1700, **machine.variables(name))
        print(f"{name}: {time.monotonic() - began:.0f} s")
        return report_of(done, (done.stdout, done.stderr))

    assert built(run("first")) == STAGES
    again = run("second")
    assert built(again) == []
    assert again.model.alias == "champion"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_machine_that_is_lost_in_training_is_replaced_by_another(machine, put, tiny, start_warm, helpers, finished):
    """kill -9 once a checkpoint is in the bucket; another machine takes it up, to the weights of a run that nothing interrupted.

    Training writes checkpoints as often as it can.
    """
    put("align", *LATER)
    words = ("run", tiny.recipe, "--store", machine.address, "--json", "--set", "registry=null")
    often = ("--set", "compute.checkpoint_seconds=0.05")
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    lost = start_warm(*words, *often, cwd=tiny.folder, **machine.variables("lost"))
    _wait(lambda: _has_checkpoint(machine, "align", lost), 600)
    time.sleep(random.Random(seed).uniform(0, 0.3))
    helpers.kill_group(lost)
    lost.communicate()
    assert not [name for name in machine.objects() if name.startswith("align/") and name.endswith("result.json")]

    other = start_warm(*words, cwd=tiny.folder, **machine.variables("other"))
    printed = other.communicate(timeout=900)
    report = report_of(other, printed)
    assert "goes on from the checkpoint of step" in printed[1]
    assert built(report) == ["align", "evaluate"]
    assert helpers.weights(report, "align") == helpers.weights(finished.report, "align")


def _has_checkpoint(machine, stage: str, process) -> bool:
    assert process.poll() is None, process.communicate()[1]
    return any(name.startswith(f"{stage}/") and name.endswith("checkpoint.json") for name in machine.objects())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_of_two_machines_at_once_one_builds_each_stage_and_the_other_waits(machine, put, tiny, start_warm, helpers, finished):
    put("align", *LATER)
    words = ("run", tiny.recipe, "--store", machine.address, "--json", "--set", "registry=null")
    both = [start_warm(*words, cwd=tiny.folder, **machine.variables(name)) for name in ("one", "two")]
    printed = [each.communicate(timeout=900) for each in both]
    one, two = (report_of(each, said) for each, said in zip(both, printed, strict=True))
    assert sorted(built(one) + built(two)) == ["align", "evaluate"]
    assert any("which holds s3://" in said for _, said in printed)
    assert one.run_id != two.run_id
    assert helpers.weights(one, "align") == helpers.weights(two, "align") == helpers.weights(finished.report, "align")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_waits_for_a_service_that_is_away(machine, put, tiny, start_warm, s3):
    """The server is stopped while a stage is built, by a signal that lets it go on later, for 20 s."""
    put("align", *LATER)
    words = ("run", tiny.recipe, "--store", machine.address, "--json", "--set", "registry=null")
    process = start_warm(*words, cwd=tiny.folder, **machine.variables("one"))
    _wait(lambda: any(name.startswith("align/") for name in machine.objects()), 600)
    os.kill(s3.process.pid, signal.SIGSTOP)
    time.sleep(20)
    os.kill(s3.process.pid, signal.SIGCONT)
    report = report_of(process, process.communicate(timeout=900))
    assert built(report) == ["align", "evaluate"]
