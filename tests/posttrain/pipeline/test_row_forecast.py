"""What encoding will leave out is known before anything trains."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from transformers import BertConfig, BertForSequenceClassification

from posttrain.pipeline import row_forecast
from posttrain.pipeline.chain import Chain
from posttrain.pipeline.preflight import preflight
from posttrain.pipeline.row_forecast import forecast_left_out
from posttrain.rewards.encoder import joining_pairs
from schemas.errors import Refusal
from schemas.load import validate_recipe


def answer(words: int) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": "clean " * words}]


def rows(count: int, long: int) -> pl.DataFrame:
    """Pairs to train on, the last `long` of them with an answer of hundreds of tokens, and as many held-out ones."""
    prompts = [[{"role": "user", "content": f"Rate hotel {i}."}] for i in range(count)]
    chosen = [answer(300 if i >= count - long else 2) for i in range(count)]
    train = pl.DataFrame({"prompt": prompts, "chosen": chosen, "rejected": [answer(1)] * count, "split": ["train"] * count})
    return pl.concat([train, train.with_columns(split=pl.lit("holdout"))])


@pytest.fixture
def chain(checkpoint, store):
    """Builds the chain of a recipe that aligns."""

    def build(checks=None, **alignment) -> Chain:
        document = {
            "name": "tiny", "model": {"source": "local", "path": str(checkpoint)},
            "data": {"preferences": "p", "checks": checks or {}}, "reward": {"max_length": 4096},
            "alignment": {"algorithm": "dpo", "max_length": 64, **alignment},
        }  # fmt: skip
        return Chain(validate_recipe(document, "test"), store)

    return build


def test_every_stage_has_its_number_and_a_sentence_where_it_is_not_0(chain):
    notes: list[str] = []
    assert forecast_left_out(chain(), {"preferences": rows(20, 3)}, notes.append) == {"reward_left_out": 0, "align_left_out": 3}
    assert notes == [
        "data.preferences: 3 of 20 training rows will be left out by alignment (a completion of N tokens does not fit "
        "max_length 64 with a prompt)"
    ]


def test_too_many_are_refused_with_the_counts(chain):
    with pytest.raises(
        Refusal, match=r"data\.preferences: found 11 of 20 training rows \(55%\) that alignment cannot encode \(a"
    ):
        forecast_left_out(chain(), {"preferences": rows(20, 11)}, print)


def test_answers_that_are_cut_are_not_left_out(chain):
    assert forecast_left_out(chain(overlong="truncate"), {"preferences": rows(20, 11)}, print)["align_left_out"] == 0


REWARDS = {
    "of the policy": {},
    "a decoder of its own": {"model": {"source": "local"}},
    "an encoder": {"model": {"source": "local", "architecture": "bert"}},
    "a new encoder": {"model": {"source": "scratch"}, "peft": {"method": "full"}},
}


@pytest.mark.parametrize("case", REWARDS)
def test_a_reward_model_is_told_of_as_its_stage_reads_pairs(case, checkpoint, tokenizer, store, reward_stage, tmp_path):
    """The number is that of a run of the stage on the same rows."""
    section = {"max_length": 64, "epochs": 1, **REWARDS[case]}
    given = section.get("model", {})
    if given.pop("architecture", None):
        section["model"] = {**given, "path": str(bert(tokenizer, tmp_path / "bert"))}
    elif given.get("source") == "local":
        section["model"] = {**given, "path": str(checkpoint)}
    document = {
        "name": "tiny", "model": {"source": "local", "path": str(checkpoint)}, "reward": section,
        "data": {"preferences": "p", "checks": {"max_drop_rate": 0.5}},
    }  # fmt: skip
    pairs = rows(20, 3).with_columns(source=pl.lit("p"), row=pl.int_range(pl.len()))
    chain, notes = Chain(validate_recipe(document, "test"), store), []
    assert forecast_left_out(chain, {"preferences": pairs}, notes.append) == {"reward_left_out": 3}
    policy = section["model"]["path"] if "path" in section.get("model", {}) else checkpoint
    built = reward_stage(tmp_path / "out", policy, pairs=pairs, **section)
    assert built.metrics["left_out"] == 3


def bert(tokenizer, folder: Path) -> Path:
    """A checkpoint of an encoder; its tokenizer puts EOS around texts."""
    joining_pairs(tokenizer).save_pretrained(folder)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=512, pad_token_id=1, num_labels=1, **shape)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_prompts_of_ppo_that_the_template_refuses_are_left_out(checkpoint, store, tmp_path):
    template = tmp_path / "no-system.jinja"
    template.write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system messages') }}{% endif %}"
        "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}{% endfor %}"
    )
    document = {
        "name": "tiny",
        "model": {"source": "local", "path": str(checkpoint), "chat_template": str(template)},
        "data": {"preferences": "p", "checks": {"max_drop_rate": 0.2}},
        "alignment": {"algorithm": "ppo", "reward": {"source": "function", "name": "posttrain.data.samples:sentiment"}},
    }
    chain, pairs = Chain(validate_recipe(document, "test"), store), rows(20, 0)
    for refused in (3, 11):
        asked = [
            [{"role": "system", "content": "Be kind."}, *prompt] if number < refused else prompt
            for number, prompt in enumerate(pairs["prompt"].to_list()[:20])
        ]
        table = pairs.head(20).with_columns(prompt=pl.Series(asked))
        if refused == 3:
            assert forecast_left_out(chain, {"preferences": table}, print) == {"align_left_out": 3}
        else:
            with pytest.raises(Refusal, match=r"found 11 of 20 training rows(.|\n)*remedy: +set model\.chat_template"):
                forecast_left_out(chain, {"preferences": table}, print)


def test_of_many_rows_a_sample_says_it(chain, monkeypatch):
    """10% of 200 rows, all at their end; 40% are too many for sure, 25% against a limit of 20% may be chance."""
    monkeypatch.setattr(row_forecast, "SAMPLED", 50)
    notes: list[str] = []
    found = forecast_left_out(chain(), {"preferences": rows(200, 20)}, notes.append)
    assert 4 <= found["align_left_out"] <= 48
    assert notes[0].startswith("data.preferences: about ")
    with pytest.raises(Refusal, match=r"of 50 training rows .* by a sample of them"):
        forecast_left_out(chain(), {"preferences": rows(200, 100)}, print)


def test_a_run_is_refused_before_its_first_stage(checkpoint, store, tmp_path):
    """Through preflight, which reads the user's own file."""
    lines = [{"prompt": f"Rate hotel {i}.", "chosen": "clean " * 300, "rejected": f"bad {i}"} for i in range(30)]
    pl.DataFrame(lines).write_ndjson(tmp_path / "p.jsonl")
    document = {
        "name": "tiny", "model": {"source": "local", "path": str(checkpoint)},
        "data": {"preferences": str(tmp_path / "p.jsonl"), "holdout": 0.3, "checks": {"waive": ["length_bias"]}},
        "alignment": {"algorithm": "dpo", "max_length": 64},
    }  # fmt: skip
    with pytest.raises(Refusal, match=r"training rows \(100%\) that alignment cannot encode"):
        preflight(Chain(validate_recipe(document, "test"), store))


@pytest.mark.parametrize(("limit", "found"), [(64, "left out"), (52, "refused")])
def test_rows_of_the_samples_are_told_of_too(limit: int, found: str, store) -> None:
    """Their model is new, so that its tokenizer is trained on the first rows. What is left out is what does not fit."""
    document = {
        "name": "tiny", "model": {"source": "scratch", "hidden_size": 64, "layers": 2, "heads": 4, "vocab_size": 2048},
        "data": {"corpus": "sample://corpus", "preferences": "sample://preferences"},
        "pretrain": {"tokens": 4096, "context": 256}, "alignment": {"algorithm": "dpo", "max_length": limit}, "evaluation": {},
    }  # fmt: skip
    chain = Chain(validate_recipe(document, "tiny.yaml"), store)
    told: list[str] = []
    if found == "refused":
        with pytest.raises(Refusal, match=rf"that alignment cannot encode, by a sample .*does not fit max_length {limit}"):
            preflight(chain, told.append)
        return
    counts = preflight(chain, told.append)
    assert 0 < counts["align_left_out"] < 0.2 * counts["preferences_train"]
    assert any("training rows will be left out by alignment" in sentence for sentence in told)
