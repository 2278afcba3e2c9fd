"""A tokenizer with more tokens than its model has embeddings: from the refusal to a version that is loaded elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.results import RunReport

START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    f"{{% for message in messages %}}{START}{{{{ message['role'] }}}}\n{{{{ message['content'] }}}}{END}\n{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{START}assistant\n{{% endif %}}"
)
LORA = {"method": "lora", "r": 4, "alpha": 8}


@pytest.fixture(scope="module", params=["tied", pytest.param("untied", marks=pytest.mark.slow)])
def given(request, tiny, tmp_path_factory) -> SimpleNamespace:
    """A model of 400 embeddings whose tokenizer got ChatML's two tokens, and a recipe that trains adapters on it."""
    from posttrain.checkpoints.load import scratch_model
    from posttrain.data.tokenizer import train_tokenizer
    from schemas.model import ScratchModel

    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = train_tokenizer(Path(tiny.document["data"]["corpus"]).read_text("utf-8").splitlines(), 400)
    shape = {"hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1, "tie_embeddings": request.param == "tied"}
    scratch_model(ScratchModel(source="scratch", **shape), tokenizer, 0).save_pretrained(folder / "model")
    tokenizer.add_special_tokens({"eos_token": END, "additional_special_tokens": [START]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    document = {
        **{name: tiny.document[name] for name in ("seed", "evaluation", "registry", "data")},
        "name": "resized",
        "model": {"source": "local", "path": "./model", "resize_embeddings": True},
        "sft": {"epochs": 2, "batch_size": 8, "max_length": 256, "learning_rate": 5e-3, "peft": LORA},
        "alignment": {**tiny.document["alignment"], "epochs": 1, "peft": LORA, "keep": "last"},
    }
    document["data"] = {name: value for name, value in document["data"].items() if name != "corpus"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
    tokens = sorted(tokenizer.convert_tokens_to_ids([START, END]))
    return SimpleNamespace(folder=folder, recipe=folder / "recipe.yaml", tokens=tokens, tied=request.param == "tied")


@pytest.fixture(scope="module")
def trained(given, warm) -> SimpleNamespace:
    store = given.folder / "store"
    process = warm("run", given.recipe, "--store", store, "--json", cwd=given.folder)
    assert process.returncode == 0, process.stderr
    return SimpleNamespace(report=RunReport.model_validate_json(process.stdout), store=store)


@pytest.fixture
def elsewhere(trained, tmp_path) -> Path:
    """The registered artifacts on another machine: a copy, without the store."""
    outputs = next(stage.outputs for stage in trained.report.stages if stage.name == "register")
    for name in ("checkpoint", "base", "adapter"):
        shutil.copytree(outputs[name], tmp_path / name)
    return tmp_path


def rows_of(model, tokens: list[int]) -> list[torch.Tensor]:
    """Embeddings of tokens [tokens, width], of input and output."""
    return [layer.weight.detach()[tokens] for layer in (model.get_input_embeddings(), model.get_output_embeddings())]


def test_without_the_field_the_tokens_are_counted_and_it_is_named(given, refused, monkeypatch):
    monkeypatch.chdir(given.folder)
    said = (f"a tokenizer of {given.tokens[-1] + 1} tokens and a model of {given.tokens[0]} embeddings", "resize_embeddings=true")
    refused(given.recipe, ["--set", "model.resize_embeddings=false"], said)


@torch.no_grad()
def test_new_rows_start_as_the_mean_and_are_trained_and_saved_with_the_adapter(given, trained, elsewhere):
    """The base has the mean of the old rows and what SFT made of it; DPO's adapter has its own; the checkpoint has both."""
    start = AutoModelForCausalLM.from_pretrained(given.folder / "model")
    cached = [path for path in (trained.store / "cache" / "resized").iterdir() if path.is_dir()]
    assert len(cached) == 1, "resized once"
    resized = AutoModelForCausalLM.from_pretrained(cached[0])
    for old, new in zip(
        (start.get_input_embeddings(), start.get_output_embeddings()), rows_of(resized, given.tokens), strict=True
    ):
        assert torch.allclose(new, old.weight.mean(0).expand_as(new), atol=1e-7)
    base, merged = (AutoModelForCausalLM.from_pretrained(elsewhere / name) for name in ("base", "checkpoint"))
    for of_start, of_base, of_merged in zip(*(rows_of(model, given.tokens) for model in (resized, base, merged)), strict=True):
        assert not torch.equal(of_base, of_start)
        assert not torch.equal(of_merged, of_base)
        assert not torch.equal(of_merged[0], of_merged[1]), "a model that tells the two tokens apart"
    assert (merged.get_output_embeddings().weight is merged.get_input_embeddings().weight) == given.tied
    kept = torch.arange(given.tokens[0])
    assert torch.equal(rows_of(merged, kept)[0], start.get_input_embeddings().weight[kept]), "no other row has moved"


@torch.no_grad()
def test_the_adapter_on_its_base_computes_what_the_checkpoint_does(elsewhere):
    tokenizer = AutoTokenizer.from_pretrained(elsewhere / "checkpoint")
    ids = torch.tensor([tokenizer(f"{START}user\nWrite a review.{END}\n{START}assistant\n")["input_ids"]])
    assert set(tokenizer.convert_tokens_to_ids([START, END])) <= set(ids[0].tolist())
    base = AutoModelForCausalLM.from_pretrained(elsewhere / "base")
    adapted = PeftModel.from_pretrained(base, str(elsewhere / "adapter")).eval()
    merged = AutoModelForCausalLM.from_pretrained(elsewhere / "checkpoint").eval()
    assert torch.allclose(adapted(ids).logits, merged(ids).logits, atol=1e-5)
    assert "trainable_token_indices" in json.loads((elsewhere / "adapter" / "adapter_config.json").read_text())


def test_a_method_that_would_leave_new_rows_alike_is_refused_in_the_first_stage_alone(given, refused, call, monkeypatch):
    monkeypatch.chdir(given.folder)
    said = ("sft.peft.method: found ia3, which would leave the embeddings of 2 new tokens", "allowed: full, lora")
    done = call("check", given.recipe, "--set", "sft.peft={method: ia3}", "--store", given.folder / "store")
    assert done.code == 2, done.err
    assert all(words in done.err for words in said), done.err
    words = ("--set", "sft.peft={method: full}", "--set", "alignment.peft={method: ia3}", "--store", given.folder / "store")
    done = call("check", given.recipe, "--json", *words)
    assert done.code == 0, done.err
