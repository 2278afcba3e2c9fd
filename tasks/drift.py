"""How far the data of a run are from those of the champion: measured before its gates, and kept for its report."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl

from posttrain.data.profile import drift, profile
from posttrain.pipeline.chain import Chain
from posttrain.runtime.trees import read_regular
from posttrain.runtime.writing import write_atomically
from schemas.data import CONTRACTS
from schemas.results import Metrics
from tasks.champion import champion_of
from tasks.open_runs import run_folder

TAG = "data_profile"
FILE = "drift.json"
LONGEST = 4900  # characters of a tag that MLflow's database takes


def profile_tag(chain: Chain) -> dict[str, str]:
    """The tag of a version with what its data are like; nothing where that is too long."""
    told = json.dumps(_profile(chain), separators=(",", ":"), sort_keys=True)
    return {TAG: told} if len(told) <= LONGEST else {}


def measure_drift(chain: Chain, client: Any, run_id: str) -> Metrics:
    """The distances to the data of the champion, by name; empty where there is none, or it does not tell."""
    assert chain.recipe.registry
    name = chain.recipe.registry.model
    known = client.search_registered_models(f"name = '{name}'")
    champion = champion_of(client, name) if known else None
    found: Metrics = {}
    with suppress(ValueError, TypeError, AttributeError):  # whoever may write into MLflow can set a tag
        found = drift(_profile(chain), json.loads(champion.tags[TAG])) if champion and TAG in champion.tags else {}
    path = _place(chain, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(found))
    return found


def kept_drift(chain: Chain, run_id: str) -> Metrics:
    """What `measure_drift` found in this run."""
    with suppress(OSError, ValueError):
        return {str(name): float(value) for name, value in json.loads(read_regular(_place(chain, run_id))).items()}
    return {}


def _place(chain: Chain, run_id: str) -> Path:
    return run_folder(chain.store.root, run_id, "tracking.uri") / FILE


def _profile(chain: Chain) -> dict[str, dict[str, float]]:
    validated = chain.stored("validate")
    names = [name for name in CONTRACTS if name in validated.result.outputs]
    return profile(pl.read_parquet(validated.path(name), glob=False).filter(split="train") for name in names)
