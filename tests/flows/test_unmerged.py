"""A version that cannot be merged is registered, compared with, and gone on from, through the real command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from schemas.results import RunReport

pytestmark = pytest.mark.slow
PROMPT = ["--set", "sft.peft={method: bottleneck, reduction_factor: 4}", "--set", "alignment.peft={method: prompt_tuning}"]


@pytest.fixture(scope="module")
def registered(finished, again, tmp_path_factory) -> SimpleNamespace:
    """A copy of the finished store whose champion is version 2: a soft prompt above a bottleneck adapter."""
    store = Path(shutil.copytree(finished.store, tmp_path_factory.mktemp("unmerged") / "store"))
    run = again(store, *PROMPT)
    assert run.process.returncode == 0, run.process.stderr
    return SimpleNamespace(store=store, report=run.report)


def test_it_is_registered_without_a_checkpoint(registered, client_of):
    assert (registered.report.model.version, registered.report.model.alias) == ("2", "champion")
    version = client_of(registered.store).get_model_version("tiny", "2")
    assert version.tags["artifacts"] == "base, adapter-1, adapter-2"
    assert version.tags["method"] == "prompt_tuning"


def test_a_candidate_is_compared_with_it(registered, again):
    """Exit code 3 is a candidate that did not beat the champion."""
    words = ("alignment.learning_rate=4.0e-3", "registry.promote_on=win_rate_vs_sft")
    run = again(registered.store, *(word for each in words for word in ("--set", each)))
    assert run.process.returncode in (0, 3), run.process.stderr
    assert "comparing with champion version 2" in run.process.stderr
    assert "champion version 2" in run.report.promotion or "in place of version 2" in run.report.promotion


def second(tiny, method: dict, **sections) -> dict:
    """A recipe that goes on from version 2 with SFT."""
    rest = {name: tiny.document[name] for name in ("seed", "evaluation", "registry")}
    data = {name: tiny.document["data"][name] for name in ("instructions", "preferences", "holdout")}
    sft = {"epochs": 1, "batch_size": 8, "max_length": 256, "peft": method}
    return {
        "name": "second",
        "model": {"source": "registry", "uri": "models:/tiny/2"},
        "data": data,
        "sft": sft,
        **rest,
        **sections,
    }


def test_a_recipe_goes_on_from_it(registered, tiny, warm, client_of, tmp_path):
    """LoRA above the soft prompt and the bottleneck adapter; both stay, and the lineage leads back to the corpus."""
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(second(tiny, {"method": "lora", "r": 4})))
    words = ("run", tmp_path / "second.yaml", "--store", registered.store, "--json")
    process = warm(*words, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    report = RunReport.model_validate_json(process.stdout)
    version = client_of(registered.store).get_model_version("tiny", report.model.version)
    assert version.tags["artifacts"] == "base, adapter-1, adapter-2, adapter-3"
    assert version.tags["base_model"] == "models:/tiny/2"
    done = warm("lineage", report.model.uri, "--store", registered.store, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pretrain" in {stage["stage"] for stage in json.loads(done.stdout)["stages"]}


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"method": "full"}, ("sft.peft.method: found full above", "choose lora")),
        ({"method": "p_tuning"}, ("sft.peft.method: found p_tuning above", "above a bottleneck adapter and a soft prompt")),
    ],
)
def test_what_cannot_be_trained_above_it_is_refused_before_anything_trains(
    registered, tiny, call, helpers, tmp_path, method, said
):
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(second(tiny, method)))
    for verb in ("check", "run"):
        done = call(verb, tmp_path / "second.yaml", "--store", registered.store)
        assert done.code == 2, done.err
        helpers.assert_helpful(done.err, said)
