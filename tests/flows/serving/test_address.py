"""Where commands on a store find the servers that `posttrain serve` runs for it, also where the store is in a bucket."""

from __future__ import annotations

import os

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.serving.address import announced
from posttrain.runtime.remote import place
from posttrain.runtime.store import Store


@pytest.fixture(params=["folder", "bucket"])
def address(request, tmp_path, monkeypatch):
    """Of a store of each kind."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    if request.param == "folder":
        return str(tmp_path / "store")
    for name, value in request.getfixturevalue("s3").variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(place.SCRATCH, str(tmp_path / "scratch"))
    return f"s3://posttrain/{tmp_path.name}"


def test_the_server_of_a_store_is_found_by_the_address_of_the_store_while_it_is_served(
    address, prefect_url, call, helpers, monkeypatch
):
    root = Store(address).root
    root.mkdir(parents=True, exist_ok=True)
    own = {PREFECT_API_URL: prefect_url}  # Prefect read its variables when an earlier test imported it
    with announced(root, {"prefect": prefect_url}), temporary_settings(own):
        found = call("status", "--store", address, "--json")
    assert found.code == 0, found.err
    assert os.environ["PREFECT_API_URL"] == prefect_url
    monkeypatch.delenv("PREFECT_API_URL")
    gone = call("status", "--store", address, "--json")
    assert gone.code == 2
    helpers.assert_helpful(gone.err, ("no `posttrain serve` runs on",))
