"""Scores by models of transformers, against PyTorch on the same weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)  # fmt: skip

from posttrain.data.sources import SourceFile
from posttrain.filters import neural
from posttrain.filters.corpus import filter_corpus
from schemas.errors import Refusal
from schemas.filter_scores import Perplexity, Quality
from schemas.filtering import Filtering

WORDS = ["[UNK]", "the", "cat", "sat", "on", "mat"]
TEXTS = ["the cat sat on the mat", "mat", "cat dog cat", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    encoder = BertForSequenceClassification(BertConfig(**sizes, num_labels=3, id2label={0: "bad", 1: "fair", 2: "good"}))
    decoder = LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=8))
    for name, model in {"encoder": encoder, "decoder": decoder}.items():
        model.eval().save_pretrained(found / name)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[UNK]").save_pretrained(found / name)
    return found


def ids(text: str) -> torch.Tensor:
    return torch.tensor([[WORDS.index(word) if word in WORDS else 0 for word in text.split()]])


@pytest.mark.parametrize(("label", "place"), [(None, 2), ("fair", 1), (0, 0)])
def test_probability_of_a_class(folder: Path, label: str | int | None, place: int) -> None:
    model = BertForSequenceClassification.from_pretrained(folder / "encoder")
    found = neural.class_scores(TEXTS[:3], Quality(model=str(folder / "encoder"), label=label))
    with torch.no_grad():
        expected = [float(model(input_ids=ids(text)).logits.softmax(-1)[0, place]) for text in TEXTS[:3]]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_perplexity(folder: Path) -> None:
    """exp of the mean of -log p of each token given those before it, told token by token; nothing for fewer than two."""
    model = LlamaForCausalLM.from_pretrained(folder / "decoder")
    found = neural.perplexities(TEXTS, Perplexity(model=str(folder / "decoder"), tokens=4))
    tokens, logs = ids(TEXTS[0])[0, :4], []
    with torch.no_grad():
        for at in range(1, 4):
            logs.append(float(model(input_ids=tokens[None, :at]).logits[0, -1].log_softmax(-1)[tokens[at]]))
    assert found[0] == pytest.approx(math.exp(-sum(logs) / 3), rel=1e-5)
    assert [math.isnan(value) for value in found] == [False, True, False, True]


def test_they_decide_about_documents(folder: Path, tmp_path: Path) -> None:
    """A document of one token has no perplexity, and that is no reason against it."""
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"id": text, "text": text}) + "\n" for text in TEXTS[:3]))
    models = {
        "quality": {"model": str(folder / "encoder"), "keep": 0},
        "perplexity": {"model": str(folder / "decoder"), "max": 1e-3},
    }
    asked = Filtering.model_validate({"preset": "none", **models})
    filter_corpus([SourceFile("c.jsonl", str(tmp_path / "c.jsonl"))], asked, 0, tmp_path / "out")
    kept, rejected = (pl.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in ("kept", "rejected"))
    assert kept.select("id", "perplexity").rows() == [("mat", None)]
    assert rejected["reasons"].to_list() == [["perplexity > 0.001"]] * 2
    assert rejected["quality"].to_list() == neural.class_scores(rejected["text"], asked.quality).tolist()


def test_an_unknown_label_is_refused(folder: Path) -> None:
    with pytest.raises(Refusal, match="bad, fair, good"):
        neural.class_scores(["cat"], Quality(model=str(folder / "encoder"), label="best"))


def test_a_folder_that_does_not_load_is_refused(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    neural.check(str(tmp_path), "filtering.quality.model")
    with pytest.raises(Refusal, match="does not load"):
        neural.class_scores(["cat"], Quality(model=str(tmp_path)))
