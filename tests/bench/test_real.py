"""A saved model and pairs of the user's: the tokens that every side trains on, what is counted of them, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GPT2Config

from bench import flops, real, sides, training
from bench.workload import Workload, make_model, read_token_rows
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from schemas.errors import Refusal

PAIRS = [
    {"prompt": "which way?", "chosen": "left", "rejected": "right"},
    {"prompt": [{"role": "user", "content": "how far?"}], "chosen": "a mile", "rejected": "two"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny Llama with a byte-level tokenizer and a chat template, as `save_pretrained` leaves them."""
    folder = tmp_path_factory.mktemp("model")
    rows = real.generated(50).to_dicts()
    tokenizer = prepare_tokenizer(train_tokenizer([message["content"] for row in rows for message in row["chosen"]], 1100))
    made = make_model(1100, "tiny")
    made.config.eos_token_id, made.config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pairs(tmp_path) -> Path:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(PAIRS[i % 2]) + "\n" for i in range(4)))
    return file


def workload(model: Path, **changed) -> Workload:
    numbers = {"kind": "dpo", "vocabulary": 1100, "full": False, "steps": 2, "shape": "", "device": "cpu", "learning_rate": 1e-2}
    return Workload(**{**numbers, "model": str(model), **changed})


def test_rows_are_the_rendered_chats_in_order_and_each_pass_repeats_them(model, pairs, tmp_path):
    """4 pairs are one step; two passes of it are 8 rows. A response ends with its end token and nothing behind it."""
    real.write(workload(model, passes=2, pairs=str(pairs)), tmp_path)
    rows, tokenizer = read_token_rows(tmp_path), AutoTokenizer.from_pretrained(model)
    assert len(rows) == 8
    assert rows[:4] == rows[4:]
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "how far?"}], tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(rows[1]["prompt"]) == asked
    assert tokenizer.decode(rows[0]["chosen"]) == "left" + tokenizer.eos_token
    assert tokenizer.decode(rows[0]["rejected"]) == "right" + tokenizer.eos_token


def test_generated_pairs_are_the_same_each_time_and_at_most_as_long_as_they_may_be(model, tmp_path):
    real.write(workload(model, steps=8), tmp_path)
    rows = read_token_rows(tmp_path)
    assert len(rows) == 32
    assert max(len(row["prompt"]) + max(len(row["chosen"]), len(row["rejected"])) for row in rows) <= real.LONGEST
    assert real.generated(3).equals(real.generated(5).head(3))


def test_operations_are_counted_from_the_config_of_the_model(model):
    """Tiny: hidden 64, 4 heads of 16 of which 2 have keys, feed-forward 160, 2 layers, head 1,100.

    A layer's matrices hold 64 (2·64 + 2·32 + 3·160) = 43,008 weights. A prompt of 3 tokens with one response of 2: the products
    are 2·86,016·5 + 2·64·1,100·2 = 1,141,760, twice with LoRA; visible keys are 6 + 2·3 + 3 = 15, attention 12·64·2·15 = 23,040.
    """
    shape = flops.Shape.read(model)
    assert shape.body == 86_016
    assert flops.needed(shape, False, 3, [2]) == 2 * 1_141_760 + 23_040


def test_too_few_pairs_are_refused(model, pairs, tmp_path):
    with pytest.raises(Refusal, match="8 examples for 2 steps"):
        real.write(workload(model, pairs=str(pairs)), tmp_path)


def test_a_row_that_is_no_pair_is_refused(model, pairs, tmp_path):
    pairs.write_text(pairs.read_text() + '{"prompt": "why?", "chosen": 3, "rejected": "no"}\n')
    with pytest.raises(Refusal, match="--pairs"):
        real.write(workload(model, pairs=str(pairs)), tmp_path)


def test_a_model_of_another_kind_is_refused(tmp_path):
    """GPT-2 has no gated feed-forward part, and other names in its config."""
    GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=1100).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(Refusal, match="hidden_size"):
        real.write(workload(tmp_path / "gpt2"), tmp_path)


@pytest.mark.parametrize(
    ("words", "said"), [(["--pairs", "pairs.jsonl"], "--pairs"), (["--model", "/no/such/folder"], "model (/no/such/folder)")]
)
def test_what_cannot_be_compared_is_refused_with_exit_code_2(words, said, monkeypatch, capfd):
    monkeypatch.setattr(sides, "TRL", Path(sys.executable))
    with pytest.raises(SystemExit) as stop:
        training.dpo(words)
    assert stop.value.code == 2
    assert capfd.readouterr().err.startswith(said)


@pytest.mark.parametrize("kind", ["dpo", "sft"])
def test_our_side_trains_on_them(kind, model, tmp_path):
    given = workload(model, kind=kind)
    given.write(tmp_path)
    real.write(given, tmp_path)
    measured = sides.run([sys.executable, "-m", "bench.ours"], tmp_path, 1)
    assert len(measured.losses) == 2
    assert measured.losses[0] == pytest.approx({"dpo": 0.6931, "sft": 7.0}[kind], abs=0.1)  # ln 2, ln 1,100
    assert measured.losses[1] != pytest.approx(measured.losses[0], abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not sides.TRL.exists(), reason="the peer's environment is not built: make peers")
def test_both_sides_of_a_real_model_have_equal_losses(model):
    """With the recipe's default adapter, at a rate that moves the loss."""
    result = training.compare(workload(model, steps=4, passes=2), rounds=1, threads=1, before=None)
    ours = result["sides"]["ours"]["losses"]
    assert abs(ours[-1] - ours[0]) > 1e-2
    assert result["largest_loss_difference"] < 1e-4
    assert 0 < result["throughput"]["ours"]["matmul_share"] < 1
