"""GPT-2 and T5 from scratch through the real command line: pretraining, SFT, DPO with LoRA, evaluation, registration, serving."""

from __future__ import annotations

import copy
import json
import math
from types import SimpleNamespace

import pytest
import yaml

from schemas.results import RunReport

STAGES = ["validate", "filter", "pretrain", "sft", "align", "evaluate", "register"]
LAYOUTS = {"gpt2": "packed", "t5": "encoder_decoder"}


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def trained(request, tiny, warm, tmp_path_factory) -> SimpleNamespace:
    """A finished run of the tiny recipe on a new model of another family."""
    folder, document = tmp_path_factory.mktemp(request.param), copy.deepcopy(tiny.document)
    document |= {"name": request.param, "registry": {"model": request.param}}
    document["model"] = {
        "source": "scratch", "architecture": request.param, "hidden_size": 32, "layers": 2, "heads": 2, "vocab_size": 400,
        "max_length": 256,
    }  # fmt: skip
    document["pretrain"]["tokens"], document["sft"]["epochs"] = 30_000, 3
    document["alignment"]["keep"] = "last"  # so few pairs may not lower the held-out loss: then the start would be the result
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
    process = warm("run", folder / "recipe.yaml", "--store", folder / "store", "--json", cwd=folder)
    assert process.returncode == 0, process.stderr
    report = RunReport.model_validate_json(process.stdout)
    return SimpleNamespace(architecture=request.param, store=folder / "store", report=report, stderr=process.stderr)


def test_every_stage_is_built_in_the_layout_of_the_family(trained):
    assert [(stage.name, stage.reused) for stage in trained.report.stages] == [(name, False) for name in STAGES]
    for stage in trained.report.stages[2:5]:
        layout = trained.store / stage.name / stage.key / "layout.txt"
        assert layout.read_text().startswith(LAYOUTS[trained.architecture]), stage.name


def test_every_loss_falls_and_preferences_are_learnt(trained):
    curves = {
        stage.name: [json.loads(line) for line in (trained.store / stage.name / stage.key / "curve.jsonl").open()]
        for stage in trained.report.stages[2:5]
    }
    for name, curve in curves.items():
        losses = [point["loss"] for point in curve if point["step"]]
        assert all(map(math.isfinite, losses)), name
        assert losses[-1] < losses[0], name
    assert curves["align"][-1]["margin"] > 0


def test_evaluation_measures_every_policy(trained):
    metrics = trained.report.stages[5].metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["perplexity_sft"] > 1
    assert metrics["kl_per_token"] != 0
    assert metrics["response_tokens_aligned"] > 0


@pytest.fixture
def champion(trained):
    """The registered model through MLflow, as a consumer loads it."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(trained.report.model.tracking_uri)
    yield mlflow.pyfunc.load_model(trained.report.model.uri)
    mlflow.set_tracking_uri(before)


def test_the_champion_answers_a_chat(champion):
    """Answers are sampled: a tiny model's most likely answer may be nothing."""
    asked = [{"role": "user", "content": "Write a review of the Old Mill, a hotel."}]
    answers = [champion.predict(asked, params={"max_new_tokens": 6, "temperature": 1.0, "seed": seed})[0] for seed in range(8)]
    assert any(answers)
    assert len(set(answers)) > 1
    assert not any("Old Mill" in answer or "User:" in answer for answer in answers), "the question is repeated"
