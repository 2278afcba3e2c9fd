"""A recipe that starts from the registry, against a real SQLite file: which version it means, and what is fetched."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from posttrain.runtime.store import Store
from schemas.errors import Refusal
from schemas.recipe import Recipe
from tasks.chains import chain_of, new_chain, pinned
from tasks.registry import fetch_version
from tasks.tracking import connect, own_tracking

A, B = "a" * 32, "b" * 32  # keys


def recipe_on(uri: str, root: Path, **sections) -> Recipe:
    """A recipe that aligns the model behind a URI."""
    (root.parent / "pairs.jsonl").write_text('{"prompt": "How was the soup?", "chosen": "Warm.", "rejected": "Cold."}\n')
    document = {
        "name": "second",
        "model": {"source": "registry", "uri": uri},
        "data": {"preferences": str(root.parent / "pairs.jsonl")},
        "alignment": {"algorithm": "dpo"},
    }
    return Recipe.model_validate(document | sections)


@pytest.fixture
def register(root, tmp_path):
    """Registers a version of `house` with the given files under `artifacts/`, as MLflow lays them out; returns its number."""
    client = connect(own_tracking(root), root)
    client.create_registered_model("house")

    def make(key: str | None, files: dict[str, str]) -> str:
        place = tmp_path / "logged" / str(key)
        for name, content in files.items():
            (place / "artifacts" / name).parent.mkdir(parents=True, exist_ok=True)
            (place / "artifacts" / name).write_text(content)
        tags = {"posttrain.key": key, "posttrain.store": str(root)} if key else {}
        return str(client.create_model_version("house", place.as_uri(), tags=tags).version)

    return make


CHECKPOINT = {"checkpoint/config.json": "{}", "checkpoint/model.safetensors": "weights", "adapter/adapter_config.json": "{}"}


def test_the_revision_of_a_reward_models_checkpoint_is_a_commit_too(root, monkeypatch):
    monkeypatch.setattr("tasks.chains.commit_of", lambda name, revision: f"commit of {name} at {revision}")
    hub = {"source": "hub", "name": "someone/bert"}
    recipe = recipe_on("models:/house/1", root, model={"source": "local", "path": "m"}, reward={"model": hub})
    assert pinned(recipe, root).reward.model.revision == "commit of someone/bert at main"


def test_an_alias_becomes_the_version_that_it_means_when_the_run_starts(root, register):
    """The alias moves during the run, as promotion may do: the run goes on with what it started from."""
    client = connect(own_tracking(root), root)
    client.set_registered_model_alias("house", "champion", register(A, CHECKPOINT))
    second = register(B, {"checkpoint/config.json": "{ }"})
    recipe = pinned(recipe_on("models:/house@champion", root), root)
    assert recipe.model.uri == "models:/house/1"
    client.set_registered_model_alias("house", "champion", second)
    assert pinned(recipe, root) == recipe
    (origin,) = new_chain(recipe, Store(root)).policy_origins("align")
    assert origin.location == "models:/house/1"
    assert pinned(recipe_on("models:/house@champion", root), root).model.uri == "models:/house/2"


def test_other_models_stay_as_they_are(root):
    recipe = recipe_on("models:/house/1", root)
    local = recipe.model_copy(update={"model": Recipe.model_validate(recipe.model_dump() | {"model": LOCAL}).model})
    assert pinned(local, root) is local


LOCAL = {"source": "local", "path": "somewhere"}


def test_the_checkpoint_alone_is_fetched_into_the_cache_once(root, register, tmp_path):
    register(A, CHECKPOINT)
    recipe = recipe_on("models:/house/1", root)
    folder = fetch_version("models:/house/1", recipe, root)
    assert folder == root / "cache" / "models" / f"house-1-{A}"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"config.json": "{}", "model.safetensors": "weights"}
    (tmp_path / "logged" / A / "artifacts" / "checkpoint" / "config.json").write_text("changed")
    assert fetch_version("models:/house/1", recipe, root) == folder
    assert (folder / "config.json").read_text() == "{}"
    assert {path.name for path in folder.parent.iterdir()} == {f"house-1-{A}", f"house-1-{A}.json", f"house-1-{A}.lock"}


PARTS = {"base/config.json": "{}", "base/model.safetensors": "weights", "adapter/lineage.json": "{}", "adapter/delta.py": ""}


def test_of_a_version_without_a_checkpoint_base_and_adapters_are_fetched(root, register):
    register(A, PARTS)
    folder = fetch_version("models:/house/1", recipe_on("models:/house/1", root), root)
    assert folder == root / "cache" / "models" / f"house-1-{A}"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(PARTS)
    policy = new_chain(recipe_on("models:/house/1", root), Store(root)).policy_before("align")
    assert (policy.base, policy.adapters) == (str(folder / "base"), (folder / "adapter",))
    assert {path.name for path in folder.parent.iterdir()} == {f"house-1-{A}", f"house-1-{A}.json", f"house-1-{A}.lock"}


def test_a_download_that_was_cut_short_is_started_again(root, register):
    register(A, CHECKPOINT)
    half = root / "cache" / "models" / f".house-1-{A}.0123.partial" / "checkpoint"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_text("wei")
    (half / "leftover").write_text("")
    folder = fetch_version("models:/house/1", recipe_on("models:/house/1", root), root)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_text() == "weights"
    assert not half.exists()


def test_two_that_fetch_at_once_get_the_same_folder(root, register):
    register(A, CHECKPOINT)
    recipe, found = recipe_on("models:/house/1", root), []

    def fetch() -> None:
        found.append(fetch_version("models:/house/1", recipe, root))

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert set(found) == {root / "cache" / "models" / f"house-1-{A}"}


def test_a_model_that_was_deleted_and_registered_anew_is_not_taken_from_the_cache(root, register):
    """MLflow counts versions of a new model of an old name from 1 again."""
    register(A, CHECKPOINT)
    fetch_version("models:/house/1", recipe_on("models:/house/1", root), root)
    client = connect(own_tracking(root), root)
    client.delete_registered_model("house")
    client.create_registered_model("house")
    assert register(B, {"checkpoint/config.json": "new"}) == "1"
    folder = fetch_version("models:/house/1", recipe_on("models:/house/1", root), root)
    assert (folder / "config.json").read_text() == "new"


@pytest.mark.parametrize("uri", ["models:/nobody@champion", "models:/house@newest", "models:/house/7"])
def test_what_the_registry_does_not_know_is_refused_by_the_field(uri, root, register):
    register(A, CHECKPOINT)
    with pytest.raises(Refusal) as refused:
        pinned(recipe_on(uri, root), root)
    assert refused.value.where == "model.uri"
    assert uri in refused.value.found
    assert str(root) in refused.value.allowed
    assert "check the name" in refused.value.remedy


def test_a_version_of_another_program_is_refused(root, register):
    register(None, CHECKPOINT)
    with pytest.raises(Refusal, match="which another program registered"):
        pinned(recipe_on("models:/house/1", root), root)


def test_a_version_without_a_checkpoint_is_refused(root, register):
    register(A, {"adapter/adapter_config.json": "{}"})
    with pytest.raises(Refusal, match=r"model\.uri: found models:/house/1, which has no checkpoint"):
        fetch_version("models:/house/1", recipe_on("models:/house/1", root), root)


def test_a_store_in_which_nothing_is_registered_is_refused_and_left_as_it_is(tmp_path):
    with pytest.raises(Refusal, match="no model is registered in sqlite"):
        pinned(recipe_on("models:/house/1", tmp_path / "store"), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_the_chain_of_a_run_is_made_once(root):
    recipe = recipe_on("models:/house/1", root)
    assert chain_of(recipe, str(root), "run") is chain_of(recipe, str(root), "run")
    assert chain_of(recipe, str(root), "other") is not chain_of(recipe, str(root), "run")
