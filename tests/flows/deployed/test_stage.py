"""How a stage's process says how it ended, wherever the store lies: who waits for it is another process, on another machine."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings

from flows.deployed.stage import stage_flow
from posttrain.runtime.remote import place
from posttrain.runtime.store import Store
from schemas.errors import Refusal
from schemas.load import load_recipe
from tasks.chains import chain_of
from tasks.exchange import Exchange

STAGE, RUN = "validate", "run-1"


@pytest.fixture(params=["folder", "home", "bucket"])
def site(request, tmp_path, monkeypatch):
    """`store(machine)` is the one at `address` as a machine has it; `work` is the folder in which a worker's processes begin."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in request.getfixturevalue("s3").variables.items() if request.param == "bucket" else ():
        monkeypatch.setenv(name, value)
    addresses = {"folder": str(tmp_path / "store"), "home": "~/store", "bucket": f"s3://posttrain/{tmp_path.name}"}
    address = addresses[request.param]

    def store(machine: str) -> Store:
        monkeypatch.setenv(place.SCRATCH, str(tmp_path / machine))
        chain_of.cache_clear()
        return Store(address)

    return SimpleNamespace(address=address, store=store, work=tmp_path / "work")


@pytest.fixture
def outcome(site, prefect_url):
    """Carry out a stage as its worker does; how it ended, as the chain reads it on another machine."""

    def carry_out(recipe) -> None:
        own = {PREFECT_API_URL: prefect_url, PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}
        with temporary_settings(own), suppress(Refusal):
            stage_flow(STAGE).fn(recipe, site.address, RUN, 1)

    def outcome(recipe):
        site.store("worker")
        thread = threading.Thread(target=carry_out, args=(recipe,))  # the main one would own the signals of this process
        thread.start()
        thread.join()
        return Exchange(site.store("chain").root, RUN, STAGE).outcome(1)

    return outcome


def test_a_stage_that_finished_is_found_by_who_waits_for_it(site, outcome, tiny):
    recipe = load_recipe(tiny.recipe)
    found = outcome(recipe)
    assert found, "nobody learns that it has ended"
    assert found.kind == "finished"
    chain = chain_of(recipe, site.address, RUN)
    assert chain.store.finished(chain.identity(STAGE)).result.key == found.report.key
    assert list(site.work.iterdir()) == [], "written where nobody looks"


def test_why_a_stage_was_refused_is_told_to_who_waits_for_it(site, outcome, tiny):
    recipe = load_recipe(tiny.recipe)
    gone = recipe.data.model_copy(update={"preferences": str(site.work / "gone.jsonl")})
    found = outcome(recipe.model_copy(update={"data": gone}))
    assert found, "nobody learns that it has ended"
    assert found.kind == "refused"
    assert "gone.jsonl" in found.refusal["found"]
    assert list(site.work.iterdir()) == [], "written where nobody looks"
