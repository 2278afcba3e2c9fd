"""Perplexity of held-out documents per token, word and byte, against plain transformers."""

from __future__ import annotations

import math

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.checkpoints.load import load_model, load_tokenizer, scratch_model
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from posttrain.evaluation.perplexity import perplexity
from posttrain.models.policy import Policy
from posttrain.scoring.scorer import Scorer
from schemas.model import ScratchModel

TEXTS = ["the film was good", "naïve café and long", "a b", "", "the film number 7 was bad and long"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    place = tmp_path_factory.mktemp("model")
    tokenizer = prepare_tokenizer(train_tokenizer([f"the film number {i} was good" for i in range(40)], 300))
    spec = ScratchModel(source="scratch", hidden_size=16, layers=1, heads=2, kv_heads=1)
    scratch_model(spec, tokenizer, 0).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


def test_every_token_is_scored_the_first_one_too(folder):
    """Each text is one piece after EOS, which also ends it; an empty one gives nothing."""
    policy = Policy(folder)
    scorer = Scorer(load_model(policy, torch.device("cpu")), torch.device("cpu"), torch.float32).eval()
    found = perplexity(scorer, load_tokenizer(policy), pl.DataFrame({"text": TEXTS}), None, 256, lambda total: lambda done: None)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    loss, tokens = 0.0, 0
    for text in filter(None, TEXTS):
        ids = [tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        loss, tokens = loss - float(logprobs.gather(1, torch.tensor(ids[1:])[:, None]).sum()), tokens + len(ids) - 1
    words, size = len(" ".join(TEXTS).split()), len("".join(TEXTS).encode())
    assert found == {
        "perplexity": pytest.approx(math.exp(loss / tokens), rel=1e-4),
        "word_perplexity": pytest.approx(math.exp(loss / words), rel=1e-3),
        "bits_per_byte": pytest.approx(loss / math.log(2) / size, rel=1e-4),
    }


def test_without_texts_there_is_none(folder):
    policy = Policy(folder)
    scorer = Scorer(load_model(policy, torch.device("cpu")), torch.device("cpu"), torch.float32).eval()
    assert perplexity(scorer, load_tokenizer(policy), None, None, 256, lambda total: lambda done: None) == {}
