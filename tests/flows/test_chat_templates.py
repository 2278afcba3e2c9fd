"""A template that a recipe gives, from the file to the registered version, and templates that are refused before training."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from posttrain.data.chat_templates import template_digest
from schemas.results import RunReport

# Refuses system messages, as Gemma 2's and Mistral's do.
TEMPLATE = """\
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{{- '<' + message['role'] + '>\n' + message['content'] + eos_token + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<assistant>\n' }}{% endif %}
"""
LORA = {"method": "lora", "r": 4, "alpha": 8}


def instructions(tiny, folder: Path) -> Path:
    """The tiny recipe's conversations, a tenth of them with a system message."""
    rows = [json.loads(line) for line in Path(tiny.document["data"]["instructions"]).read_text("utf-8").splitlines()]
    for row in rows[::10]:
        row["messages"].insert(0, {"role": "system", "content": "Be kind."})
    (folder / "instructions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", "utf-8")
    return folder / "instructions.jsonl"


@pytest.fixture(scope="module")
def given(tiny, tmp_path_factory) -> SimpleNamespace:
    """A folder with a tiny model whose tokenizer has no template, and a recipe that trains adapters on it."""
    from posttrain.checkpoints.load import scratch_model
    from posttrain.data.tokenizer import train_tokenizer
    from schemas.model import ScratchModel

    folder = tmp_path_factory.mktemp("templates")
    rows = instructions(tiny, folder)
    tokenizer = train_tokenizer(rows.read_text("utf-8").splitlines(), 400)
    shape = {"hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1}
    scratch_model(ScratchModel(source="scratch", **shape), tokenizer, 0).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "my.jinja").write_text(TEMPLATE, "utf-8")
    document = {
        **{name: tiny.document[name] for name in ("seed", "evaluation", "registry")},
        "name": "templates",
        "model": {"source": "local", "path": "./model", "chat_template": "./my.jinja"},
        "data": {"instructions": str(rows), "holdout": 0.2},
        "sft": {"epochs": 1, "batch_size": 8, "max_length": 256, "peft": LORA},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
    return SimpleNamespace(folder=folder, recipe=folder / "recipe.yaml")


@pytest.fixture(scope="module")
def trained(given, warm) -> SimpleNamespace:
    store = given.folder / "store"
    process = warm("run", given.recipe, "--store", store, "--json", cwd=given.folder)
    assert process.returncode == 0, process.stderr
    return SimpleNamespace(report=RunReport.model_validate_json(process.stdout), store=store, stderr=process.stderr)


def test_the_registered_checkpoint_has_the_template_of_the_recipe(trained, client_of):
    register = next(stage for stage in trained.report.stages if stage.name == "register")
    for part in ("checkpoint", "base"):
        saved = Path(register.outputs[part]) / "chat_template.jinja"
        assert saved.read_text("utf-8") == TEMPLATE
    version = client_of(trained.store).get_model_version("tiny", "1")
    assert version.tags["chat_template"] == f"file, sha256 {template_digest(TEMPLATE)}"


def test_the_report_names_the_template_and_the_rows_that_it_refuses(trained):
    report = trained.report
    assert (report.chat_template.origin, report.chat_template.sha256) == ("file", template_digest(TEMPLATE))
    [notice] = report.notices
    assert "rows (10%) that the chat template refuses (system, user, assistant: System role not supported)" in notice
    assert f"note: {notice}" in " ".join(trained.stderr.split())
    page = report.report.read_text("utf-8")
    assert template_digest(TEMPLATE)[:12] in page
    assert "that the chat template refuses" in page


def test_evaluation_asks_what_training_takes(trained):
    """Evaluation crashed on the rows that training left out."""
    import polars as pl

    sft, evaluate = (next(s for s in trained.report.stages if s.name == name) for name in ("sft", "evaluate"))
    left_out = pl.read_parquet(trained.store / "sft" / sft.key / "quarantine.parquet")
    assert set(left_out["reason"]) == {"the chat template refuses the conversation: System role not supported"}
    assert evaluate.metrics["perplexity_sft"] > 1


def test_check_tells_the_same_and_the_default_template_is_noted(given, call, monkeypatch):
    monkeypatch.chdir(given.folder)
    done = call("check", given.recipe, "--store", given.folder / "other", "--json")
    assert done.code == 0, done.err
    notices = json.loads(done.out)["notices"]
    assert ["rows (10%) that the chat template refuses" in notice for notice in notices] == [True, False], notices
    done = call("check", given.recipe, "--store", given.folder / "other", "--json", "--set", "model.chat_template=null")
    assert done.code == 0, done.err
    [notice] = json.loads(done.out)["notices"]
    assert "has no chat template: the default one (role names as plain text) is used" in notice


REFUSED = {
    "more rows than allowed": (["data.checks.max_drop_rate=0.05"], ("data.instructions: found", "rows (10%)", "at most 5%")),
    "an unknown name": (["model.chat_template=chatlm"], ("model.chat_template: found 'chatlm'", "did you mean chatml?")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_template_is_refused_before_anything_trains(case, given, refused, monkeypatch):
    fields, said = REFUSED[case]
    monkeypatch.chdir(given.folder)
    refused(given.recipe, [word for field in fields for word in ("--set", field)], said)


FAULTY = {
    "without a generation prompt": (TEMPLATE.partition("{%- if add_generation_prompt")[0], "without a generation prompt"),
    "with an opened thought": (TEMPLATE.replace("{{ '<assistant>\n'", "{{ '<assistant>\n<think>\n'"), "<think>"),
    "with a fault": ("{{ nothing.there }}" + TEMPLATE, "fails at line 1: 'nothing' is undefined"),
}


@pytest.mark.parametrize("case", FAULTY)
def test_a_faulty_template_is_refused_before_anything_trains(case, given, refused, monkeypatch):
    text, said = FAULTY[case]
    (given.folder / "faulty.jinja").write_text(text, "utf-8")
    monkeypatch.chdir(given.folder)
    refused(given.recipe, ["--set", "model.chat_template=./faulty.jinja"], ("model.chat_template: found", said))
