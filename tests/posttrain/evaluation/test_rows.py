"""Which held-out rows evaluation asks and scores: of every source its share, up to a length, and all of them counted."""

from __future__ import annotations

import json
import sys
import types

import polars as pl
import pytest

from posttrain.evaluation.evaluate import HeldOut, evaluate, held_out_prompts, longest_row
from posttrain.evaluation.gates import describe, gates_of
from posttrain.models.architectures import readable
from posttrain.models.policy import Policy
from posttrain.models.positions import UNLIMITED
from posttrain.runtime.progress import Quiet
from schemas.errors import Refusal
from schemas.load import validate_recipe

POSITIONS = 64


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def recipe(**evaluation):
    document = {
        "name": "tiny", "model": {"source": "local", "path": "m"}, "data": {"preferences": "p"},
        "alignment": {"algorithm": "dpo"}, "evaluation": {"prompts": 8, "max_new_tokens": 4, **evaluation},
    }  # fmt: skip
    return validate_recipe(document, "test")


def pairs(count: int = 10, **changes) -> pl.DataFrame:
    columns = {
        "source": ["a.jsonl"] * (count // 2) + ["b.jsonl"] * (count - count // 2),
        "prompt": [user(f"Rate hotel {i}.") for i in range(count)],
        "chosen": [assistant("Clean.")] * count,
        "rejected": [assistant("Bad")] * count,
    }
    return pl.DataFrame(columns | changes)


@pytest.fixture
def policies(tmp_path, tiny_llama, tokenizer):
    """A reference and a candidate with rotary positions, of which they were made for 64."""
    found = {}
    for seed, name in enumerate(("base", "aligned")):
        tiny_llama(len(tokenizer), seed, max_position_embeddings=POSITIONS).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        found[name] = Policy(str(tmp_path / name))
    return found


def test_prompts_are_distinct_and_come_from_the_preferences_first():
    repeated = pl.DataFrame({"prompt": [user("a"), user("a"), user("b")]})
    other = pl.DataFrame({"prompt": [user("c")]})
    assert held_out_prompts(HeldOut(None, other, repeated), 8)["prompt"].to_list() == [user("a"), user("b")]
    assert held_out_prompts(HeldOut(None, other, None), 8)["prompt"].to_list() == [user("c")]
    assert held_out_prompts(HeldOut(None, other, repeated), 1).height == 1


def test_no_held_out_prompt_is_refused():
    with pytest.raises(Refusal, match=r"data\.holdout"):
        held_out_prompts(HeldOut(None, None, None), 8)


def test_both_of_two_sources_are_asked():
    """The first eight of twenty are all of one source."""
    prompts = held_out_prompts(HeldOut(None, None, pairs(20)), 8)
    assert prompts["source"].to_list() == ["a.jsonl"] * 4 + ["b.jsonl"] * 4


def test_where_the_prompts_are_from_is_kept_with_the_bound(policies, tmp_path):
    evaluate(recipe(), policies, HeldOut(None, None, pairs(20)), tmp_path, Quiet())
    assert json.loads((tmp_path / "rows.json").read_text()) == {"limit": POSITIONS, "prompts": {"a.jsonl": 4, "b.jsonl": 4}}


def test_rows_beyond_the_positions_are_cut_or_left_out_and_counted(policies, tmp_path):
    """Row 0 has a prompt of hundreds of tokens, row 1 an answer of more than 64: one is cut, the other has no score."""
    prompts = [user("Rate it. " * 100), *(user(f"Rate hotel {i}.") for i in range(1, 8))]
    chosen = [assistant("Clean."), assistant("Clean and kind. " * 40), *[assistant("Clean.")] * 6]
    table = pairs(8, prompt=prompts, chosen=chosen)
    numbers = evaluate(recipe(), policies, HeldOut(None, None, table, refused=3), tmp_path, Quiet()).metrics
    assert {name: value for name, value in numbers.items() if name.startswith("held_out")} == {
        "held_out_prompts": 8, "held_out_prompts_cut": 1, "held_out_pairs": 7, "held_out_pairs_left_out": 1,
        "held_out_pairs_cut": 1, "held_out_refused": 3,
    }  # fmt: skip
    assert pl.read_parquet(tmp_path / "pairs.parquet")["row"].to_list() == [0, 2, 3, 4, 5, 6, 7]


def test_a_recipe_bounds_the_rows_further(policies):
    assert longest_row(recipe(), policies["base"]) == POSITIONS
    assert longest_row(recipe(max_length=24), policies["base"]) == 24
    assert longest_row(recipe(max_length=4096), policies["base"]) == POSITIONS


def test_a_bound_without_room_for_a_prompt_is_refused():
    with pytest.raises(Refusal, match=r"evaluation\.max_new_tokens: found 40 with max_length 41"):
        recipe(max_length=41, max_new_tokens=40)


def test_what_a_model_was_made_to_read():
    from transformers import GPT2Config, LlamaConfig, RobertaConfig, T5Config

    assert readable(LlamaConfig(max_position_embeddings=2048)) == 2048
    assert readable(GPT2Config(n_positions=128)) == 128
    assert readable(RobertaConfig(max_position_embeddings=514)) == 512
    assert readable(T5Config()) == UNLIMITED


def echoes(prompts, responses, rows):
    """A judge that reads a column of the data, and what is told of the sample; it is asked of the pairs' own answers as well."""
    said = zip(prompts, rows, strict=True)
    assert all(row["response_tokens"] > 0 and row["conversation"][-1]["content"] == prompt for prompt, row in said)
    return [row["answer"] for row in rows]


def test_a_judge_sees_the_columns_of_the_held_out_row(policies, tmp_path, monkeypatch):
    module = types.ModuleType("judge_of_rows")
    module.echoes = echoes
    monkeypatch.setitem(sys.modules, module.__name__, module)
    table = pairs(extra=[json.dumps({"answer": answer}) for answer in range(10)])
    spec = recipe(judge={"name": "judge_of_rows:echoes"}, samples=2)
    evaluate(spec, {"base": policies["base"]}, HeldOut(None, None, table), tmp_path, Quiet())
    samples = pl.read_parquet(tmp_path / "samples.parquet")
    assert [f"Rate hotel {answer:g}." for answer in samples["reward_base"]] == samples["prompt"].to_list()
    assert samples.height == 16


def is_answer(prompts, responses, rows):
    """1 where the response is what the row says is right, 0 elsewhere, None for answers of pairs, which no row knows."""
    return [float(text == row["answer"]) if text != "Clean." else None for text, row in zip(responses, rows, strict=True)]


@pytest.mark.parametrize(("right", "interval"), [(14, (0.609, 0.991)), (10, (0.364, 0.836))])
def test_accuracy_by_a_column_of_the_row_is_a_gate_with_its_interval(policies, tmp_path, monkeypatch, right, interval):
    """Prompts alone, whose column `answer` is what the policy says on 14 of 16 and then on 10 of 16; asked are half at least, and
    proof that it is more than that. With two of each added 16 of 20 has the interval .609 to .991, and 12 of 20 .364 to .836."""
    module = types.ModuleType("judge_of_answers")
    module.is_answer = is_answer
    monkeypatch.setitem(sys.modules, module.__name__, module)
    asked = [user(f"Question {i}?") for i in range(16)]
    gates = {"mean_reward": {"min": 0.5, "lower_bound_above": 0.5}}
    spec = recipe(judge={"name": "judge_of_answers:is_answer"}, prompts=16, gates=gates)

    def measured(answers: dict[str, str]):
        rows = [json.dumps({"answer": answers.get(each[0]["content"], "")}) for each in asked]
        prompts = pl.DataFrame({"prompt": asked, "source": ["q.jsonl"] * 16, "extra": rows})
        return evaluate(spec, policies, HeldOut(None, None, None, prompts=prompts), tmp_path, Quiet()).metrics

    measured({})
    samples = pl.read_parquet(tmp_path / "samples.parquet")
    said = dict(list(zip(samples["prompt"], samples["response_aligned"], strict=True))[:right])
    numbers = measured(said)
    accuracy = {name.replace("reward_aligned", "mean_reward"): value for name, value in numbers.items()}
    (gate,) = gates_of(spec, accuracy)
    assert gate.value == right / 16
    assert gate.interval == pytest.approx(interval, abs=2e-3)
    assert gate.passed == (interval[0] > 0.5)
    assert "95% interval" in describe(gate)
