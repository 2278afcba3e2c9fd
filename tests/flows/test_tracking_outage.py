"""A run whose MLflow server is killed and started again while it trains, watched in MLflow's own pages by a browser."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from schemas.results import RunReport
from tests.tasks.tracking_server import tracking_server, until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]
TOKENS = 700_000  # of pretraining, in batches of 512: long enough that a server can go and come back meanwhile
TRAINED = ("pretrain", "sft", "align")


@pytest.fixture
def server(tmp_path, helpers):
    with tracking_server(tmp_path, helpers.environment()) as found:
        found.start()
        yield found


def nested(client: MlflowClient) -> dict:
    """The runs of stages, by stage."""
    experiments = [each.experiment_id for each in client.search_experiments()]
    return {run.data.tags["stage"]: run for run in client.search_runs(experiments) if "stage" in run.data.tags}


def logged(client: MlflowClient, stage: str) -> list[tuple[int, float]]:
    """Step and loss of a stage's curve in MLflow, each as often as it is there."""
    run = nested(client).get(stage)
    points = client.get_metric_history(run.info.run_id, "curve/loss") if run else []
    return sorted((point.step, point.value) for point in points)


def written(curve: Path) -> list[tuple[int, float]]:
    """The same by the stage's own file, whose last line may be half there."""
    lines = curve.read_text().splitlines(keepends=True) if curve.exists() else []
    points = [json.loads(line) for line in lines if line.endswith("\n")]
    return sorted((point["step"], point["loss"]) for point in points if point["step"] and point.get("loss") is not None)


def shown_tokens(page, address: str) -> int:
    """What the page of a run says under `curve/tokens`: how far its training is."""
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("text=curve/tokens", timeout=120_000)
    return int(re.search(r"curve/tokens\s+(\d+)", page.inner_text("body"))[1])


def watch(client: MlflowClient, address: str, picture: Path) -> list[int]:
    """Looks at the page of pretraining twice, and at its charts: the tokens that it showed."""
    from playwright.sync_api import sync_playwright

    run = nested(client)["pretrain"].info
    page_of_run = f"{address}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    with sync_playwright() as play, play.chromium.launch(executable_path=CHROMIUM) as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        seen = [shown_tokens(page, page_of_run)]
        points = len(logged(client, "pretrain"))
        until(lambda: len(logged(client, "pretrain")) > points + 3, 300)
        seen.append(shown_tokens(page, page_of_run))
        page.goto(f"{page_of_run}/model-metrics")
        page.wait_for_selector("text=pretrain (curve/loss)", timeout=120_000)
        page.wait_for_timeout(2000)  # until the line is drawn
        page.screenshot(path=picture)
    return seen


def test_every_point_is_there_once_and_was_seen_while_it_trained(server, tiny, start_warm, tmp_path, helpers):
    """The page shows a curve that grows; then the server is killed for a while, and the run goes on without it."""
    pytest.importorskip("playwright.sync_api")
    store, client = tmp_path / "store", MlflowClient(server.address)
    changes = (f"tracking.uri={server.address}", f"pretrain.tokens={TOKENS}")
    run = start_warm(
        "run", tiny.recipe, "--store", store, "--json", *(w for each in changes for w in ("--set", each)), cwd=tmp_path
    )
    try:
        until(lambda: len(logged(client, "pretrain")) > 3, 400)
        seen = watch(client, server.address, tmp_path / "training.png")
        curve = next((store / "pretrain").glob("*.partial")) / "curve.jsonl"
        server.kill()
        before = len(written(curve))
        until(lambda: len(written(curve)) > before + 5, 300)
        server.start()
        out, err = run.communicate(1200)
    finally:
        helpers.kill_group(run)
    assert run.returncode == 0, err
    assert 0 < seen[0] < seen[1] < TOKENS
    keys = {stage.name: stage.key for stage in RunReport.model_validate_json(out).stages}
    for stage in TRAINED:
        assert logged(client, stage) == written(store / stage / keys[stage] / "curve.jsonl") != []
    assert {stage: run.info.status for stage, run in nested(client).items()} == dict.fromkeys(keys, "FINISHED")
    assert len(client.search_runs([nested(client)["sft"].info.experiment_id])) == len(keys) + 1  # and their parent
