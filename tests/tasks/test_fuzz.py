"""500 mutations of what a store and a registry say: refused or harmless, and nothing outside the store is touched."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from posttrain.runtime.cached_folder import cached_folder, is_intact
from posttrain.runtime.store import RESULT, Built, StageKey, Store
from schemas.errors import Refusal
from schemas.results import Origin
from tasks import open_runs
from tasks.lineage import lineage_of
from tasks.version_tags import cache_of, home_of, place_of

MUTATIONS = 500
OUTSIDE = [
    "../../victim",
    "../victim/secret",
    "/etc/passwd",
    "..",
    ".",
    "",
    "\0",
    "a/../../../victim",
    "x" * 5000,
    "\u202e\u001b[2J",
]
VALUES = [*OUTSIDE, None, True, -1, 1e308, [], {}, [[[]]], {"a": {"b": []}}, "0" * 32, "z" * 32, "é" * 32]
TAGS = ("posttrain.key", "posttrain.stage", "posttrain.store")


def stage(out: Path) -> Built:
    (out / "model").mkdir(exist_ok=True)
    (out / "model" / "weights").write_text(out.parent.name)
    return Built({"win_rate": 0.4}, {"model": "model"})


@pytest.fixture
def world(tmp_path) -> SimpleNamespace:
    """A store with two stages, a run, an open marker and a cached folder; beside it a victim, and a copy to start anew from."""
    root = tmp_path / "pristine"
    store = Store(root)
    first = StageKey("sft", 3, {"seed": 0, "sft": {"epochs": [1, 2]}}, (Origin(name="data.x", digest="d", location="x"),))
    sft = store.build(first, stage)
    second = StageKey("align", 2, {"seed": 0}, (sft.origin(),))
    align = store.build(second, stage)
    (root / "runs" / "abc").mkdir(parents=True)
    stages = [{"name": each.result.stage, "key": each.result.key} for each in (sft, align)]
    (root / "runs" / "abc" / RESULT).write_text(json.dumps({"stages": stages}))
    (root / "runs" / "0123.open").write_text("abc")
    cached_folder(root / "cache" / "models" / "house-1", _cache)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "secret").write_text("mine")
    files = [sft.folder / RESULT, align.folder / RESULT, root / "runs" / "abc" / RESULT, root / "runs" / "0123.open",
             root / "cache" / "models" / "house-1.json"]  # fmt: skip
    return SimpleNamespace(pristine=root, outside=tmp_path / "victim", identities=(first, second),
                           files=[file.relative_to(root) for file in files])  # fmt: skip


def _cache(scratch: Path) -> Path:
    (scratch / "model.safetensors").write_text("w")
    return scratch


def mutated(text: str, rng: random.Random) -> bytes:
    """A document with one value, name or byte changed, or cut short."""
    kind = rng.randrange(4)
    if kind == 0 or not text.startswith("{"):
        content = bytearray(text.encode())
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        return bytes(content)
    if kind == 1:
        return text[: rng.randrange(len(text))].encode()
    document = json.loads(text)
    holder, name = rng.choice(list(_places(document)))
    if kind == 2 or isinstance(holder, list):
        holder[name] = rng.choice(VALUES)
    else:
        holder[str(rng.choice(OUTSIDE))] = holder.pop(name)
    return json.dumps(document).encode()


def _places(value):
    """Every place in a document: what holds it, and its name or number there."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield value, name
        yield from _places(inner)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_mutations_are_refused_or_harmless(world, tmp_path):
    rng, verdicts = random.Random(13), {"refused": 0, "rebuilt": 0, "taken": 0}
    root = Path(shutil.copytree(world.pristine, tmp_path / "store"))
    beside, within = snapshot(world.outside), snapshot(root)
    for _ in range(MUTATIONS):
        file = root / rng.choice(world.files)
        file.write_bytes(mutated(file.read_text(), rng))
        tags = {"posttrain.key": "a" * 32, "posttrain.store": str(root)} | {rng.choice(TAGS): str(rng.choice(VALUES))}
        for use in (use_store, use_lineage, use_marker, use_cache, use_tags):
            try:
                verdicts[use(root, world.identities, tags)] += 1
            except Refusal:
                verdicts["refused"] += 1
        assert snapshot(world.outside) == beside
        assert sorted(path.name for path in tmp_path.iterdir()) == ["pristine", "store", "victim"]
        file.write_bytes(within[str(file)])
        if snapshot(root) != within:  # something was built again
            shutil.rmtree(root)
            shutil.copytree(world.pristine, root)
    assert min(verdicts.values()) > 100, "the mutations reach every outcome"


def use_store(root: Path, identities, tags) -> str:
    """Both stages are there afterwards, with the numbers that they were built with."""
    store = Store(root)
    first = store.build(identities[0], stage)
    second = store.build(identities[1], stage)
    for stored in (first, second):
        assert stored.result.metrics == {"win_rate": 0.4}
        assert stored.path("model").resolve().is_relative_to(root)
    return "taken" if first.reused and second.reused else "rebuilt"


def use_lineage(root: Path, identities, tags) -> str:
    lineage_of("abc", root, None, verify=True)
    return "taken"


def use_marker(root: Path, identities, tags) -> str:
    run_id = open_runs.marked(root / "runs" / "0123.open") or "new"
    assert open_runs.run_folder(root, run_id, "tracking.uri").resolve().is_relative_to(root / "runs")
    return "taken"


def use_cache(root: Path, identities, tags) -> str:
    folder = root / "cache" / "models" / "house-1"
    intact = is_intact(folder)
    assert (cached_folder(folder, _cache) / "model.safetensors").read_text() == "w"
    return "taken" if intact else "rebuilt"


def use_tags(root: Path, identities, tags) -> str:
    assert (root / place_of(tags, "MODEL")).resolve().is_relative_to(root)
    assert cache_of(root, "house", "1", tags, "MODEL").resolve().is_relative_to(root / "cache" / "models")
    assert home_of(tags, "MODEL").is_absolute()
    return "taken"
