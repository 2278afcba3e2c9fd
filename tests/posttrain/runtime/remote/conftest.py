"""A real S3-compatible server of this machine, moto's, and stores in it as different machines have them."""

from __future__ import annotations

import pytest

from posttrain.runtime.remote import bucket as buckets
from posttrain.runtime.remote import place
from posttrain.runtime.store import Store


@pytest.fixture(scope="session")
def s3_server():
    """Its address."""
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch, tmp_path):
    """A client of the server with an empty bucket `posttrain`; local copies of stores lie in a folder of the test."""
    given = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(place.SCRATCH, str(tmp_path / "here"))
    monkeypatch.setattr(buckets, "RETRY_SECONDS", 0.1)
    place.bucket_at.cache_clear()
    client = buckets.Bucket("s3://posttrain")._client
    client.create_bucket(Bucket="posttrain")
    yield client
    keys = [{"Key": each["Key"]} for each in client.list_objects_v2(Bucket="posttrain").get("Contents", ())]
    if keys:
        client.delete_objects(Bucket="posttrain", Delete={"Objects": keys})
    client.delete_bucket(Bucket="posttrain")


@pytest.fixture
def store_on(s3, monkeypatch, tmp_path):
    """The store `s3://posttrain/runs` as a machine of that name has it: with a local folder of its own."""

    def store(machine: str) -> Store:
        monkeypatch.setenv(place.SCRATCH, str(tmp_path / machine))
        return Store("s3://posttrain/runs")

    return store
