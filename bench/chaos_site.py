"""Servers, workers and a tiny recipe for runs that are to be disturbed, and the means to disturb them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import UUID

import yaml

from bench.postgres import Databases, databases, programs
from flows.deployed.api import insist
from flows.server import free_port
from flows.serving.services import Service, stop
from flows.serving.site import mlflow_service, prefect_service, reconciler_service, worker_service
from posttrain.data.samples import write_sample
from posttrain.runtime.liveness import is_dead, read_note
from schemas.load import validate_recipe
from schemas.recipe import Recipe
from tasks.exchange import CHAIN, STARTED

ROWS = {"corpus": 300, "instructions": 120, "preferences": 120}
TINY = {
    "seed": 3,
    "model": {"source": "scratch", "hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1, "vocab_size": 400},
    "filtering": {"rules": {"words": {"min": 10}}},
    "pretrain": {"tokens": 120_000, "context": 64, "batch_tokens": 512},
    "sft": {"epochs": 12, "batch_size": 8, "max_length": 256, "learning_rate": 1.0e-3},
    "alignment": {
        "algorithm": "dpo", "epochs": 8, "batch_size": 8, "max_length": 256, "learning_rate": 5.0e-3, "keep": "last",
        "peft": {"method": "lora", "r": 4, "alpha": 8},
    },
    "evaluation": {"prompts": 8, "max_new_tokens": 8, "judge": {"name": "posttrain.data.samples:sentiment"}},
    "compute": {"checkpoint_seconds": 1.0, "log_every": 5},
    "tracking": {"experiment": "chaos"},
}  # fmt: skip
REBUILT = ("sft", "align", "register")
"""Stages that every run builds anew."""
GRACE_SECONDS = 60.0
RESTART_SECONDS = 60.0
"""That the reconciler has to start a run again which crashed: twice its period."""


class ChaosSite:
    """A site with its services by name."""

    def __init__(self, root: Path, databases: Databases | None) -> None:
        self.root, self.store, self.databases = root, root / "store", databases
        ports = free_port(), free_port()
        self.prefect, self.mlflow = f"http://127.0.0.1:{ports[0]}/api", f"http://127.0.0.1:{ports[1]}"
        os.environ |= {"PREFECT_API_URL": self.prefect, "MLFLOW_TRACKING_URI": self.mlflow}
        addresses = {"prefect": self.prefect, "mlflow": self.mlflow}
        prefect, mlflow = prefect_service(self.store, ports[0]), mlflow_service(self.store, ports[1])
        if databases:
            prefect.environment["PREFECT_API_DATABASE_CONNECTION_URL"] = databases.address("prefect", "asyncpg")
            mlflow.command = list(mlflow.command)
            mlflow.command[mlflow.command.index("--backend-store-uri") + 1] = databases.address("mlflow", "psycopg2")
        workers = {
            f"{pool} worker": worker_service(self.store, pool, addresses, limit) for pool, limit in (("cpu", None), ("gpu", 1))
        }
        workers["reconciler"] = reconciler_service(self.store, addresses)
        own = {"PostgreSQL": databases.service} if databases else {}
        self.services: dict[str, Service] = own | {"Prefect": prefect, "MLflow": mlflow} | workers
        self.crashed: float | None = None
        """When the run was first seen to have crashed."""
        self.document = TINY | {"data": _data(root), "registry": {"model": "chaos"}}

    def recipe(self, name: str) -> Recipe:
        """The recipe, whose model is registered under its name: each run registers one version of its own."""
        return validate_recipe(self.document | {"name": name, "registry": {"model": name}}, name)

    def start(self, name: str) -> UUID:
        """Start a run as `posttrain trigger` does."""
        from flows.deployed.remote_run import start

        return UUID(start(self.recipe(name)).id)

    def state_of(self, run: UUID) -> str | None:
        """How a run has ended, or None while it has not, or nobody can say."""
        from flows.deployed.api import ask

        try:
            state = ask(lambda client: client.read_flow_run(run)).state
        except Exception:
            return None
        return state.name if state and state.is_final() else None

    def ended(self, run: UUID) -> str | None:
        """The same, but that a run which crashed may be started again for a while."""
        state = self.state_of(run)
        if state != "Crashed":
            self.crashed = None
            return state
        self.crashed = self.crashed or time.monotonic()
        return state if time.monotonic() - self.crashed > RESTART_SECONDS else None

    def processes(self) -> dict[int, str]:
        """Living processes of runs: what they do, by their ids; of one that has not come to that, that it has started."""
        found: dict[int, str] = {}
        for path in [*(self.store / "runs").glob("*.process.json"), *(self.store / "runs").glob("*/*.process.json")]:
            note = read_note(path)
            if note and not is_dead(path, note) and found.get(note.pid, STARTED) == STARTED:
                found[note.pid] = note.what
        return found

    def at_work(self) -> str:
        """Which stage runs."""
        return next((what for what in self.processes().values() if what not in (CHAIN, STARTED)), "between stages")

    def kill_process(self, target: str, how: signal.Signals) -> bool:
        """Signal the process of the chain, or of the stage that runs; whether there was one."""
        for pid, what in self.processes().items():
            if (what == CHAIN) == (target == "chain"):
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
                    return True
        return False

    def kill_service(self, name: str, how: signal.Signals) -> None:
        """Signal a service; what it leaves behind after kill -9 ends by itself or not, as on a real machine."""
        process = self.services[name].process
        assert process
        os.kill(process.pid, how)
        process.wait(GRACE_SECONDS if how == signal.SIGTERM else 10)

    def start_service(self, name: str) -> None:
        """Start it again, and wait until it answers."""
        if name == "PostgreSQL":
            assert self.databases
            self.databases.start()
            return
        self.services[name].start()
        self.services[name].wait_until_ready()

    def keep_up(self) -> list[str]:
        """Start again what has ended by itself, as a supervisor does; the names."""
        ended = [name for name, each in self.services.items() if not each.is_alive()]
        for name in ended:
            self.start_service(name)
        return ended

    def weights(self) -> dict[str, str]:
        """Digests of the weights that the training stages have made."""
        found = {}
        for stage in ("pretrain", "sft", "align"):
            for result in (self.store / stage).glob("*/result.json"):
                files = json.loads(result.read_text())["files"]
                found |= {f"{stage}/{name}": each["sha256"] for name, each in files.items() if name.endswith(".safetensors")}
        return found


def _data(root: Path) -> dict:
    """The first clean rows of each generated sample."""
    files: dict = {"holdout": 0.2}
    for name, count in ROWS.items():
        everything = root / f"all-{name}.jsonl"
        write_sample(name, everything)
        clean = [line for line in everything.read_text("utf-8").splitlines() if json.loads(line)["noise"] is None]
        (root / f"{name}.jsonl").write_text("\n".join(clean[:count]) + "\n", "utf-8")
        files[name] = str(root / f"{name}.jsonl")
    return files


@contextmanager
def chaos_site(root: Path) -> Iterator[ChaosSite]:
    """A running site, everything registered."""
    with ExitStack() as stack:
        site = ChaosSite(root, stack.enter_context(databases()) if programs() else None)
        services = [each for name, each in site.services.items() if name != "PostgreSQL"]
        try:
            for each in services[:2]:
                each.start()
            for each in services[:2]:
                each.wait_until_ready()
            _register(site)
            for each in services[2:]:
                each.start()
            yield site
        finally:
            stop(services, seconds=30)


def _register(site: ChaosSite) -> None:
    from flows.deployed import registration

    (site.root / "recipe.yaml").write_text(yaml.safe_dump(site.document))
    where = registration.Site(store=str(site.store.resolve()), dtype="float32", gpu_limit=1)
    registration.register(where, registration.plan(where, {}, {}))
    insist(lambda client: client.read_work_pools(), "the pools")
    time.sleep(1)
