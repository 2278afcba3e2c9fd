"""Tags, markers and artifacts that somebody else wrote into MLflow or the store: refused, and nothing outside is touched."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from posttrain.models.policy import folder_digest
from posttrain.pipeline.chain import Chain
from posttrain.runtime.store import RESULT, Built, StageKey, Store
from schemas.errors import Refusal
from schemas.recipe import Recipe
from schemas.results import Origin
from tasks import open_runs, tracking
from tasks.lineage import lineage_of
from tasks.register import _head_to_head
from tasks.registry import fetch_version
from tasks.tracking import connect, own_tracking, start_run

KEY = "a" * 32


def recipe_on(uri: str, root: Path) -> Recipe:
    """A recipe that aligns the model behind a URI."""
    (root.parent / "pairs.jsonl").write_text('{"prompt": "How was the soup?", "chosen": "Warm.", "rejected": "Cold."}\n')
    document = {"name": "second", "model": {"source": "registry", "uri": uri},
                "data": {"preferences": str(root.parent / "pairs.jsonl")}, "alignment": {"algorithm": "dpo"}}  # fmt: skip
    return Recipe.model_validate(document)


@pytest.fixture
def register(root, tmp_path):
    """Registers a version of `house` with tags and a checkpoint of these files; returns its URI and the checkpoint's folder."""
    client = connect(own_tracking(root), root)
    client.create_registered_model("house")

    def make(tags: dict[str, str], **files: str) -> SimpleNamespace:
        place = tmp_path / "logged" / "artifacts" / "checkpoint"
        place.mkdir(parents=True)
        for name, content in ({"config.json": "{}", "model.safetensors": "w"} | files).items():
            (place / name).write_text(content)
        tags = {"posttrain.key": KEY, "posttrain.store": str(root)} | tags
        version = client.create_model_version("house", place.parents[1].as_uri(), tags=tags).version
        return SimpleNamespace(uri=f"models:/house/{version}", place=place)

    return make


def fetch(uri: str, root: Path) -> Path:
    return fetch_version(uri, recipe_on(uri, root), root)


@pytest.mark.parametrize("key", ["x/../../../victim", "../../victim", "a" * 31, "a" * 32 + "\n", "A" * 32, ""])
def test_a_key_that_leads_out_of_the_cache_is_refused(root, register, tmp_path, key):
    """`posttrain check` deleted and wrote the folder that the tag named."""
    victim = tmp_path / "victim.partial"
    victim.mkdir()
    (victim / "letters").write_text("mine")
    with pytest.raises(Refusal, match=r"whose tag posttrain\.key is"):
        fetch(register({"posttrain.key": key}).uri, root)
    assert (victim / "letters").read_text() == "mine"
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("stage", ["../..", "sft", ""])
def test_a_stage_that_registers_nothing_is_refused(root, register, stage):
    with pytest.raises(Refusal, match=r"whose tag posttrain\.stage is"):
        lineage_of(register({"posttrain.stage": stage}).uri, root, None)


def test_artifacts_that_are_not_what_was_registered_are_refused(root, register):
    with pytest.raises(Refusal, match="whose checkpoint is not what was registered"):
        fetch(register({"artifact.checkpoint": "0" * 64}).uri, root)


def test_artifacts_that_are_what_was_registered_are_fetched_and_fetched_again_where_the_copy_was_changed(
    root, register, tmp_path
):
    (tmp_path / "same").mkdir()
    for name, content in {"config.json": "{}", "model.safetensors": "w"}.items():
        (tmp_path / "same" / name).write_text(content)
    version = register({"artifact.checkpoint": folder_digest(tmp_path / "same")})
    folder = fetch(version.uri, root)
    (folder / "model.safetensors").write_text("x")
    assert (fetch(version.uri, root) / "model.safetensors").read_text() == "w"


@pytest.mark.parametrize("name", ["delta.so", "modeling_house.py", "id_rsa", "weights.bin"])
def test_a_file_that_is_no_part_of_a_checkpoint_is_refused(root, register, name):
    """A link in the artifacts of a local server copies what the one who fetches can read: `id_rsa`."""
    with pytest.raises(Refusal, match="a file of another kind"):
        fetch(register({}, **{name: "secret"}).uri, root)
    assert not list((root / "cache" / "models").glob("house*[!k]"))
    assert not list((root / "cache" / "models").rglob(name))


def test_an_index_that_leads_out_of_the_checkpoint_is_refused(root, register):
    index = json.dumps({"weight_map": {"a": "../outside.safetensors"}})
    with pytest.raises(Refusal, match=r"which names '\.\./outside\.safetensors'"):
        fetch(register({}, **{"model.safetensors.index.json": index}).uri, root)


def test_a_champion_that_is_not_what_was_registered_is_not_compared_with(root, register):
    """Whoever replaces its weights by worse ones would let any candidate win."""
    uri = register({"artifact.checkpoint": "0" * 64}).uri
    registry = {"registry": {"model": "house", "promote_on": "preference_accuracy"}}
    chain = Chain(Recipe.model_validate(recipe_on(uri, root).model_dump(mode="json") | registry), Store(root))
    with pytest.raises(Refusal, match=r"registry\.model: found models:/house/1, whose checkpoint is not what was registered"):
        _head_to_head(chain, connect(own_tracking(root), root).get_model_version("house", "1"))


@pytest.mark.parametrize("content", ["../../../victim", "/tmp/victim", "a\n", "", "é", "x" * 300])
def test_a_marker_that_names_no_run_starts_a_new_one(root, content, tmp_path, monkeypatch):
    """Without MLflow the run had the id of the marker, and its report the path."""
    recipe = recipe_on("models:/house/1", root)
    monkeypatch.setattr(tracking, "connect", lambda uri, root: 1 / 0)
    marker = open_runs.marker_of(recipe, root)
    marker.parent.mkdir(parents=True)
    marker.write_text(content)
    assert open_runs.RUN_ID.fullmatch(start_run(recipe, root))


def test_a_marker_that_is_a_link_or_a_pipe_is_neither_followed_nor_waited_for(root, tmp_path, monkeypatch):
    recipe = recipe_on("models:/house/1", root)
    monkeypatch.setattr(tracking, "connect", lambda uri, root: 1 / 0)
    marker = open_runs.marker_of(recipe, root)
    marker.parent.mkdir(parents=True)
    (tmp_path / "victim").write_text("mine")
    marker.symlink_to(tmp_path / "victim")
    start_run(recipe, root)
    assert (tmp_path / "victim").read_text() == "mine"
    marker.unlink()
    os.mkfifo(marker)
    start_run(recipe, root)
    assert marker.is_file()


def test_a_run_whose_folder_leads_elsewhere_is_refused(root, tmp_path, monkeypatch):
    (tmp_path / "victim").mkdir()
    (root / "runs").mkdir()
    (root / "runs" / "abc").symlink_to(tmp_path / "victim")
    with pytest.raises(Refusal, match="leads out of"):
        open_runs.run_folder(root, "abc", "tracking.uri")


def stage(out: Path) -> Built:
    (out / "model").write_text(out.parent.name)
    return Built({"win_rate": 0.4}, {"model": "model"})


@pytest.fixture
def chain(root) -> SimpleNamespace:
    """Two stages, the second made from the first, and a run that names them."""
    store = Store(root)
    sft = store.build(StageKey("sft", 3, {"seed": 0}, (Origin(name="data.x", digest="d", location="x"),)), stage)
    align = store.build(StageKey("align", 2, {"seed": 0}, (sft.origin(),)), stage)
    (root / "runs" / "abc").mkdir(parents=True)
    stages = [{"name": each.result.stage, "key": each.result.key} for each in (sft, align)]
    (root / "runs" / "abc" / RESULT).write_text(json.dumps({"stages": stages}))
    return SimpleNamespace(sft=sft.folder, align=align.folder, run=root / "runs" / "abc" / RESULT)


@pytest.mark.parametrize(
    "stages", [[{"name": "..", "key": KEY}], [{"name": "sft", "key": "../../x"}], [], {}, [1], [{"name": "sft"}]]
)
def test_a_run_that_names_a_place_outside_the_store_is_refused(root, chain, stages):
    chain.run.write_text(json.dumps({"stages": stages}))
    with pytest.raises(Refusal):
        lineage_of("abc", root, None)


@pytest.mark.parametrize("run", ["../runs/abc", "/abc", "", "abc/."])
def test_an_id_that_is_a_path_is_no_run(root, chain, run):
    with pytest.raises(Refusal, match="a run id of this store"):
        lineage_of(run, root, None)


def edited(folder: Path, **fields) -> None:
    document = json.loads((folder / RESULT).read_text()) | fields
    (folder / RESULT).write_text(json.dumps(document))


def resealed(folder: Path, **fields) -> None:
    """As somebody edits who knows the seal."""
    from posttrain.runtime.integrity import read_result

    edited(folder, **fields)
    edited(folder, seal=read_result(folder).computed_seal)


def test_a_chain_as_it_was_built_is_verified(root, chain):
    found = lineage_of("abc", root, None, verify=True)
    assert (found["verified"], found["unsealed"]) == (True, [])
    assert [row["sealed"] for row in found["stages"]] == [True, True]


def test_what_an_older_version_wrote_is_verified_as_far_as_it_goes(root, chain):
    edited(chain.sft, seal=None)
    found = lineage_of("abc", root, None, verify=True)
    assert (found["verified"], found["unsealed"]) == (True, ["sft"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: edited(c.sft, metrics={"win_rate": 0.9}), "does not agree with its own seal"),
        (lambda c: (c.sft / "model").write_text("sfx"), "model does not have the bytes"),
        (lambda c: (c.align / "delta.py").write_text(""), r"delta\.py is not in the manifest"),
        (lambda c: resealed(c.align, fields={"seed": 1}), "from which its key does not follow"),
        (lambda c: resealed(c.align, inputs=[]), "from which its key does not follow"),
    ],
)
def test_what_was_changed_since_is_named(root, chain, change, said):
    change(chain)
    with pytest.raises(Refusal, match=said):
        lineage_of("abc", root, None, verify=True)


def test_another_output_than_the_next_stage_was_made_from_is_named(root, chain):
    """The file, its digest in the manifest and the seal agree; the next stage remembers another one."""
    from posttrain.runtime.integrity import entry_of

    (chain.sft / "model").write_text("other")
    resealed(chain.sft, files={"model": entry_of(chain.sft / "model").model_dump()})
    with pytest.raises(Refusal, match="an input sft that is not what sft put out"):
        lineage_of("abc", root, None, verify=True)


def test_a_number_that_was_sealed_again_differs_from_what_was_registered(root, chain):
    from posttrain.runtime.integrity import read_result
    from tasks.lineage_proof import prove

    results = [(read_result(folder), root) for folder in (chain.sft, chain.align)]
    tags = {f"result.{result.stage}": result.seal for result, _ in results}
    prove(results, tags)
    resealed(chain.sft, metrics={"win_rate": 0.9})
    with pytest.raises(Refusal, match=r"was registered: rebuilt or edited since"):
        prove([(read_result(chain.sft), root), results[1]], tags)


def test_a_copied_result_of_another_key_is_not_walked(root, chain):
    other = chain.align.with_name("b" * 32)
    shutil.copytree(chain.align, other)
    chain.run.write_text(json.dumps({"stages": [{"name": "align", "key": "b" * 32}]}))
    with pytest.raises(Refusal, match="no finished result"):
        lineage_of("abc", root, None)
