"""A resized model is what every stage starts from, and the first stage must train what was added."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import AutoModelForSeq2SeqLM, T5Config

from posttrain.pipeline.chain import Chain
from posttrain.pipeline.vocabulary_check import check_vocabulary
from schemas.errors import Refusal
from schemas.load import validate_recipe

LORA, FULL, IA3 = {"method": "lora", "r": 4}, {"method": "full"}, {"method": "ia3"}


@pytest.fixture
def chain(document, store, tokenizer, tiny_llama, tmp_path):
    """Builds the chain of SFT and DPO on a model that lacks the last two of its tokenizer's tokens."""
    known = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})

    def build(sft: dict, align: dict, model=None, resize: bool = True, **sections) -> SimpleNamespace:
        (model or tiny_llama(known)).save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        given = {name: section for name, section in document.items() if name not in ("pretrain", "reward")} | {
            "model": {"source": "local", "path": str(tmp_path / "model"), "resize_embeddings": resize},
            "sft": {"peft": sft},
            "alignment": {"algorithm": "dpo", "peft": align},
        }
        return Chain(validate_recipe(given | sections, "tiny.yaml"), store), (known, known + 1)

    return build


def test_without_the_field_it_is_what_the_refusal_offers(chain):
    made, _ = chain(LORA, LORA, resize=False)
    with pytest.raises(Refusal, match=r"remedy: +set model\.resize_embeddings=true"):
        check_vocabulary(made)


@pytest.mark.parametrize(("sft", "align", "untrained"), [(LORA, LORA, 2), (FULL, LORA, 0), (LORA, IA3, 2), (FULL, IA3, 0)])
def test_new_tokens_are_untrained_until_a_stage_trains_in_full(sft, align, untrained, chain):
    made, new = chain(sft, align)
    check_vocabulary(made)
    assert (made.source.new_tokens, made.new_tokens("sft")) == (new, new)
    assert len(made.new_tokens("align")) == untrained
    assert made.model.path == made.source.base != made.recipe.model.path


REFUSED = {
    "all alike": ((IA3, LORA, {}), r"sft\.peft\.method: found ia3, which would leave the embeddings of 2 new tokens"),
    "sharded": (
        (LORA, LORA, {"compute": {"num_processes": 2, "strategy": "fsdp2"}}),
        r"compute\.strategy: found fsdp2 with sft\.peft\.method lora and 2 new tokens",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_first_stage_that_cannot_train_them_is_refused(case, chain):
    (sft, align, sections), said = REFUSED[case]
    with pytest.raises(Refusal, match=said):
        check_vocabulary(chain(sft, align, **sections)[0])


def test_an_encoder_decoder_is_trained_in_full(chain, tokenizer):
    shape = {
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 32,
        "num_layers": 1,
        "num_heads": 2,
        "decoder_start_token_id": 1,
        "pad_token_id": 1,
    }
    model = AutoModelForSeq2SeqLM.from_config(T5Config(vocab_size=len(tokenizer) - 2, **shape))
    with pytest.raises(Refusal, match=r"sft\.peft\.method: found lora(.|\n)*allowed: full\n"):
        check_vocabulary(chain(LORA, LORA, model)[0])
    check_vocabulary(chain(FULL, LORA, model)[0])


def test_the_key_of_a_stage_knows_of_new_embeddings_and_of_the_content_they_were_added_to(chain):
    made, _ = chain(LORA, LORA)
    assert made.identity("validate").fields.keys() == {"checks", "holdout"}
    assert made._vocabulary("sft") == {"new_embeddings": 2}
    (origin,) = made.policy_origins("sft")
    assert origin.location == made.recipe.model.path
