"""A checkpoint as a GGUF file: read back exactly, and refused where it would not be."""

from __future__ import annotations

import pytest
import torch

from posttrain.checkpoints import gguf_export
from posttrain.checkpoints.gguf_export import check_gguf_export, write_gguf
from posttrain.checkpoints.load import load_model, load_tokenizer
from posttrain.models.policy import Policy
from schemas.errors import Refusal

gguf = pytest.importorskip("gguf")
IDS = torch.arange(2, 12)[None]


@pytest.fixture
def checkpoint(tiny_llama, tokenizer, tmp_path):
    """A Llama with grouped queries, as save_pretrained leaves it."""

    def made(**more):
        tiny_llama(len(tokenizer), initializer_range=0.2, **more).save_pretrained(tmp_path / "checkpoint")
        tokenizer.save_pretrained(tmp_path / "checkpoint")
        return tmp_path / "checkpoint"

    return made


@pytest.mark.parametrize("tied", [True, False])
def test_it_computes_the_same_logits_and_reads_the_same_tokens(checkpoint, tmp_path, tied):
    folder, file = checkpoint(tie_word_embeddings=tied), tmp_path / "model.gguf"
    write_gguf(folder, file)
    plain, written = Policy(str(folder)), Policy(str(tmp_path), gguf="model.gguf")
    models = [load_model(policy, torch.device("cpu")).eval() for policy in (plain, written)]
    with torch.no_grad():
        assert torch.equal(models[0](IDS).logits, models[1](IDS).logits)
    tokenizers = [load_tokenizer(policy) for policy in (plain, written)]
    assert tokenizers[0]("Naïve hotel, 1 2 3")["input_ids"] == tokenizers[1]("Naïve hotel, 1 2 3")["input_ids"]
    assert tokenizers[0].chat_template == tokenizers[1].chat_template


def test_a_file_that_reads_back_otherwise_is_refused(checkpoint, tmp_path, monkeypatch):
    """Without the turn, queries and keys would be paired wrongly."""
    monkeypatch.setattr(gguf_export, "_turned", lambda weight, heads: weight)
    with pytest.raises(Refusal, match=r"reads back with another model\.layers\.0\.self_attn\.k_proj\.weight"):
        write_gguf(checkpoint(), tmp_path / "model.gguf")


@pytest.mark.parametrize(("kind", "merges", "words"), [("gpt2", True, "type gpt2"), ("llama", False, "stays beside its base")])
def test_what_cannot_be_written_is_refused_before_anything_trains(kind, merges, words):
    with pytest.raises(Refusal, match=words) as refused:
        check_gguf_export(kind, merges)
    assert refused.value.where == "registry.export"
    check_gguf_export("llama", True)
