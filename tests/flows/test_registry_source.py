"""A recipe that goes on from a registered version, through the real command line: the chain behind it stays whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from schemas.results import RunReport


@pytest.fixture(scope="module")
def document(tiny) -> dict:
    """SFT of the champion with LoRA, registered under the same name."""
    rest = {name: tiny.document[name] for name in ("seed", "evaluation", "registry")}
    data = {name: tiny.document["data"][name] for name in ("instructions", "preferences", "holdout")}
    sft = {"epochs": 1, "batch_size": 8, "max_length": 256, "peft": {"method": "lora", "r": 4, "alpha": 8}}
    return {"name": "second", "model": {"source": "registry", "uri": "models:/tiny@champion"}, "data": data, "sft": sft, **rest}


@pytest.fixture(scope="module")
def continued(finished, document, warm, tmp_path_factory) -> SimpleNamespace:
    """A run of that recipe on a copy of the store in which the champion is version 1."""
    folder = tmp_path_factory.mktemp("continued")
    store = Path(shutil.copytree(finished.store, folder / "store"))
    (folder / "second.yaml").write_text(yaml.safe_dump(document))
    process = warm("run", folder / "second.yaml", "--store", store, "--json", cwd=folder)
    assert process.returncode == 0, process.stderr
    return SimpleNamespace(folder=folder, store=store, report=RunReport.model_validate_json(process.stdout))


def test_training_starts_from_the_registered_checkpoint(continued, finished, helpers):
    """The copy in the cache has the weights that version 1 was registered with; promotion moves the alias to version 2."""
    assert [stage.name for stage in continued.report.stages] == ["validate", "sft", "evaluate", "register"]
    (fetched,) = (path for path in (continued.store / "cache" / "models").iterdir() if path.is_dir())
    registered = finished.store / "register" / finished.report.stages[-1].key / "checkpoint"
    assert helpers.sha256(fetched / "model.safetensors") == helpers.sha256(registered / "model.safetensors")
    assert (continued.report.model.version, continued.report.model.alias) == ("2", "champion")


def test_the_new_version_names_its_parent(continued, client_of):
    version = client_of(continued.store).get_model_version("tiny", "2")
    assert version.tags["base_model"] == "models:/tiny/1"
    assert len(version.tags["digest.model"]) == 64


def test_lineage_walks_through_the_parent_to_its_data(continued, finished, warm):
    done = warm("lineage", "models:/tiny@champion", "--store", continued.store, "--json", cwd=continued.folder)
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    keys = [(stage["stage"], stage["key"]) for stage in stages]
    own = [(stage.name, stage.key) for stage in continued.report.stages if stage.name != "evaluate"]
    parents = [(stage.name, stage.key) for stage in finished.report.stages if stage.name != "evaluate"]
    assert set(keys) == set(own) | set(parents)
    assert len(keys) == len(set(keys))
    assert keys.index(parents[-1]) < keys.index(own[1]), "the parent's registration stands before what was trained on it"
    (origin,) = (each for each in stages[keys.index(own[1])]["inputs"] if each["name"] == "model")
    assert origin["location"] == "models:/tiny/1"


def test_lineage_follows_the_parent_into_another_store(continued, finished, warm, tmp_path):
    """What the parent was made from lies in the store that its tags name, where this one does not have it."""
    store = Path(shutil.copytree(continued.store, tmp_path / "store"))
    shutil.rmtree(store / "register" / finished.report.stages[-1].key)
    shutil.rmtree(store / "pretrain")
    done = warm("lineage", "models:/tiny/2", "--store", store, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    paths = [path for stage in json.loads(done.stdout)["stages"] for path in stage["left_out_rows"]]
    assert {str(root) for root in (store, finished.store) if any(path.startswith(f"{root}/") for path in paths)} == {
        str(store), str(finished.store)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("models:/nobody@champion", ("model.uri: found models:/nobody@champion", "check the name")),
        ("models:/tiny@newest", ("model.uri: found models:/tiny@newest", "check the name")),
        ("models:/tiny/9", ("model.uri: found models:/tiny/9", "check the name")),
    ],
)
def test_what_the_registry_does_not_have_is_refused_before_anything_trains(uri, said, copy, document, call, helpers, tmp_path):
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(document | {"model": {"source": "registry", "uri": uri}}))
    before = sorted(path.name for path in copy.glob("*/*"))
    for verb in ("check", "run"):
        done = call(verb, tmp_path / "second.yaml", "--store", copy)
        assert done.code == 2, done.err
        helpers.assert_helpful(done.err, said)
    assert sorted(path.name for path in copy.glob("*/*")) == before


def test_a_store_in_which_nothing_is_registered_is_refused_and_stays_empty(refused, document, tmp_path):
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(document))
    refused(tmp_path / "second.yaml", [], ("model.uri: found models:/tiny@champion, and no model is registered in sqlite",))


def test_check_sizes_a_registered_model(continued, finished, warm):
    done = warm("check", continued.folder / "second.yaml", "--store", continued.store, "--json", cwd=continued.folder)
    assert done.returncode == 0, done.stderr
    pretrained = next(stage.metrics for stage in finished.report.stages if stage.name == "pretrain")
    assert json.loads(done.stdout)["model"]["parameters"] == pretrained["parameters"]
