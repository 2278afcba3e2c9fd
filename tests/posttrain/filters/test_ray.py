"""A Ray cluster keeps the same documents and writes the same bytes, for every step, and whoever is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.data.sources import resolve
from posttrain.filters import engines
from posttrain.filters.corpus import filter_corpus
from schemas.filtering import Filtering
from tests.posttrain.filters import test_engines as same

pytest.importorskip("ray", reason="ray, an extra, is not installed")
os.environ["RAY_AUTH_MODE"] = "disabled"  # a token would lie in the home folder; nobody else reaches this cluster
pytestmark = pytest.mark.slow  # a cluster takes seconds to start, and each of its processes some to import
RUN = """
import json, sys
from pathlib import Path
from posttrain.data.sources import resolve
from posttrain.filters import engines
from posttrain.filters.corpus import filter_corpus
from schemas.filtering import Filtering
data, out, told, engine = sys.argv[1:5]
asked, files = Filtering.model_validate(json.loads(told)), resolve(data, "DATA", Path())
with engines.ray(sys.argv[5]) if engine == "ray" else engines.local(2) as opened:
    print("begins", flush=True)
    filter_corpus(files, asked, 0.1, Path(out), engine=opened)
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of two processes in a process group of its own, which outlives the runs that are killed."""
    folder = tmp_path_factory.mktemp("ray")
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2", "--port=0",
        "--include-dashboard=false", "--node-ip-address=127.0.0.1", f"--temp-dir=/tmp/ray{os.getpid()}", "--disable-usage-stats",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(same.ROOT), "RAY_enable_metrics_collection": "0"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
    told = Path(f"/tmp/ray{os.getpid()}/ray_current_cluster")
    for _ in range(600):
        if (told.exists() and told.read_text()) or process.poll() is not None:
            break
        time.sleep(0.1)
    assert told.exists(), (folder / "log").read_text()
    yield told.read_text().strip()
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(60)


def run_of(data: Path, out: Path, asked: Filtering, engine: str, address: str) -> subprocess.Popen:
    told = json.dumps(asked.model_dump(mode="json", exclude_unset=True))
    environment = os.environ | {"PYTHONPATH": str(same.ROOT)}
    command = [sys.executable, "-c", RUN, str(data), str(out), told, engine, address]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)


@pytest.mark.parametrize("files", [1, 3, 7])
def test_every_step_decides_the_same_for_any_cut_of_the_files(tmp_path: Path, address: str, files: int) -> None:
    """Language, personal data, quality, contamination, divergence, lines, copies, near-duplicates, addresses, mixture."""
    asked = same.everything(tmp_path / "given")
    sources = same.corpus(tmp_path / "in", files)
    filter_corpus(same.corpus(tmp_path / "one", 1), asked, 0.1, tmp_path / "expected")
    filter_corpus(sources, asked, 0.1, tmp_path / "here")
    with engines.ray(address) as cluster:
        filter_corpus(sources, asked, 0.1, tmp_path / "ray", engine=cluster)
    assert same.decided(tmp_path / "ray") == same.decided(tmp_path / "expected")
    assert same.digests(tmp_path / "ray") == same.digests(tmp_path / "here")


def test_what_was_kept_before_is_the_same_too(tmp_path: Path, address: str) -> None:
    """Two nights with a folder of their own each, local and on Ray."""
    nights = [same.corpus(tmp_path / "one", 3), same.corpus(tmp_path / "two", 4)]
    for name in ("here", "ray"):
        asked = Filtering.model_validate({"preset": "none", "dedup": {"near": "14x8", "against": str(tmp_path / f"kept-{name}")}})
        with engines.ray(address) if name == "ray" else engines.local(1) as engine:
            filter_corpus(nights[0][:2], asked, 0.1, tmp_path / name / "one", engine=engine)
            filter_corpus(nights[1], asked, 0.1, tmp_path / name / "two", engine=engine)
    for night in ("one", "two"):
        assert same.decided(tmp_path / "ray" / night) == same.decided(tmp_path / "here" / night)
    reasons = {reason for _, _, why in same.decided(tmp_path / "ray" / "two") for reason in why}
    assert reasons == {"duplicate", "near_duplicate"}


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_killed_at_random_instants_and_repeated_it_ends_in_the_same_bytes(tmp_path: Path, address: str, engine: str) -> None:
    """Eight kills of the run that starts the tasks, each at another instant, then one run to its end."""
    asked, rng = same.everything(tmp_path / "given"), random.Random(11)
    same.corpus(tmp_path / "in", 6)
    filter_corpus(resolve(str(tmp_path / "in"), "DATA", Path()), asked, 0.1, tmp_path / "whole")
    killed = 0
    for at in range(8):
        out = tmp_path / f"out{at % 2}"
        process = run_of(tmp_path / "in", out, asked, engine, address)
        assert process.stdout
        process.stdout.readline()
        time.sleep(rng.random() * 1.5)
        killed += process.poll() is None
        process.kill()
        process.wait()
    assert killed > 2
    for out in (tmp_path / "out0", tmp_path / "out1"):
        assert run_of(tmp_path / "in", out, asked, engine, address).wait() == 0
        assert same.digests(out) == same.digests(tmp_path / "whole")


def test_a_worker_that_is_killed_costs_nothing_but_its_task(tmp_path: Path, address: str) -> None:
    """Ray runs the task again, in a new process."""
    import ray

    asked = same.everything(tmp_path / "given")
    files = same.corpus(tmp_path / "in", 6)
    filter_corpus(files, asked, 0.1, tmp_path / "here")
    with engines.ray(address) as cluster:
        workers = set(cluster.map(os.getpid, [()] * 8))
        assert os.getpid() not in workers
        killer = subprocess.Popen(["sh", "-c", f"sleep 0.4; kill -9 {' '.join(map(str, workers))}"])
        filter_corpus(files, asked, 0.1, tmp_path / "ray", engine=cluster)
        killer.wait()
        assert ray.is_initialized()
    assert same.digests(tmp_path / "ray") == same.digests(tmp_path / "here")
