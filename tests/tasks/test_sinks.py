"""W&B (offline) and trackio get the numbers that MLflow gets, each point once, and nothing where their library fails."""

from __future__ import annotations

import importlib
import json
import struct
from pathlib import Path

import pytest

from posttrain.pipeline.chain import Chain
from posttrain.pipeline.tracking_check import check_sinks
from posttrain.runtime.store import Built, Store
from schemas.errors import Refusal
from tasks import sinks, tracked_stages, tracking

STEPS = (1, 2, 3, 5)
CURVE = [{"step": step, "tokens": 10 * step, "seconds": 0.1 * step, "loss": 1 / step} for step in STEPS]


@pytest.fixture
def chain_to(tmp_path, root, a_recipe):
    """A chain whose recipe names other trackers."""
    return lambda *also: Chain(a_recipe(tmp_path, tracking={"also": also, "system_seconds": None}), Store(root))


def trained(chain: Chain) -> str:
    """Train a stage of four points and a final number, of which the first attempt ends after two; returns the run's id."""
    run_id = tracking.start_run(chain.recipe, chain.store.root)

    def write(out: Path, points) -> None:
        (out / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))

    def interrupted(out):
        write(out, CURVE[:2])
        for sink in chain.recipe.tracking.also:
            sinks._copy(sink, chain, run_id, "validate", out / "curve.jsonl").send()
        raise KeyboardInterrupt

    def whole(out):
        write(out, CURVE)
        return Built({"final_loss": 0.2})

    identity = chain.identity("validate")
    with pytest.raises(KeyboardInterrupt):
        chain.store.build(
            identity, lambda out: tracked_stages.tracked(chain, run_id, "validate", interrupted, out), ("curve.jsonl",)
        )
    stored = chain.store.build(
        identity, lambda out: tracked_stages.tracked(chain, run_id, "validate", whole, out), ("curve.jsonl",)
    )
    for _ in range(2):
        tracked_stages.log_all(chain, run_id, stored)
    return run_id


def test_trackio_has_every_point_once_and_the_final_numbers(chain_to, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    storage = importlib.import_module("trackio.sqlite_storage")
    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "trackio")
    chain = chain_to("trackio")
    run_id = trained(chain)
    logs = storage.SQLiteStorage.get_logs(chain.recipe.tracking.experiment, f"{run_id}-validate")
    found = [(line["step"], line["curve/loss"], line["curve/tokens"]) for line in logs if "curve/loss" in line]
    assert found == [(point["step"], point["loss"], point["tokens"]) for point in CURVE]
    assert [line["final/final_loss"] for line in logs if "final/final_loss" in line] == [0.2]


def test_wandb_offline_has_every_point_once_and_the_final_numbers(chain_to, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    chain = chain_to("wandb")
    run_id = trained(chain)
    history, summary = [], {}
    for record in wandb_records(chain.store.root / "tracking"):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            history.append((items["_step"], items["curve/loss"], items["curve/tokens"]))
        if record.WhichOneof("record_type") == "summary":
            summary |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.summary.update}
        if record.WhichOneof("record_type") == "run":
            assert (record.run.run_group, record.run.run_id) == (run_id, f"{run_id}-validate")
    assert history == [(point["step"], point["loss"], point["tokens"]) for point in CURVE]
    assert summary["final_loss"] == 0.2


def wandb_records(folder: Path):
    """What an offline run has written: protocol buffers in the frames of a LevelDB log, each smaller than a block here."""
    from wandb.proto import wandb_internal_pb2

    [path] = folder.rglob("*.wandb")
    content, at = path.read_bytes(), 7  # after `:W&B`, a magic number and a version
    assert len(content) < 32768
    while at + 7 <= len(content):
        length, kind = struct.unpack_from("<HB", content, at + 4)  # after a checksum of four bytes
        assert kind == 1
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content[at + 7 : at + 7 + length])
        at += 7 + length
        yield record


def test_a_tracker_that_fails_ends_no_run(chain_to, monkeypatch, caplog):
    class Broken:
        def __init__(self, *arguments) -> None:
            raise OSError("no space left")

    monkeypatch.setitem(sinks.SINKS, "trackio", Broken)
    chain = chain_to("trackio")
    run_id = tracking.start_run(chain.recipe, chain.store.root)
    stored = chain.store.build(
        chain.identity("validate"), lambda out: tracked_stages.tracked(chain, run_id, "validate", lambda out: Built(), out)
    )
    tracked_stages.log_all(chain, run_id, stored)
    assert "no space left" in caplog.text


def test_a_tracker_that_is_not_installed_is_refused(chain_to, monkeypatch):
    monkeypatch.setattr("posttrain.pipeline.tracking_check.find_spec", lambda name: None)
    with pytest.raises(Refusal, match=r"posttrain\[wandb\]") as refused:
        check_sinks(chain_to("wandb").recipe)
    assert refused.value.where == "tracking.also.0"
