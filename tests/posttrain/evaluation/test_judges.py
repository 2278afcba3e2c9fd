"""Judges in evaluation: what they cannot judge is left out and counted, and how they agree with people is measured."""

from __future__ import annotations

import re
import sys
import time
import types

import numpy as np
import polars as pl
import pytest

from posttrain.checkpoints.load import scratch_model
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from posttrain.evaluation.evaluate import HeldOut, evaluate
from posttrain.evaluation.head_to_head import Match, against_champion
from posttrain.models.policy import Policy
from posttrain.runtime import chat_endpoint
from posttrain.runtime.progress import Quiet
from posttrain.statistics.intervals import share_interval
from schemas.errors import Refusal
from schemas.load import validate_recipe
from schemas.model import ScratchModel


def says(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Two tiny policies, and ten held-out pairs of five prompts in which the longer response was chosen, but for the last two."""
    texts = [f"the film number {i} was {'good' if i % 2 else 'bad'} and long" for i in range(40)]
    tokenizer, policies = prepare_tokenizer(train_tokenizer(texts, 300)), {}
    for seed, name in enumerate(("base", "aligned")):
        folder = tmp_path_factory.mktemp(name)
        spec = ScratchModel(source="scratch", hidden_size=16, layers=1, heads=2, kv_heads=1)
        scratch_model(spec, tokenizer, seed).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        policies[name] = Policy(str(folder))
    sides = [["long and good"] * 8 + ["bad"] * 2, ["bad"] * 8 + ["long and good"] * 2]
    chosen, rejected = ([says("assistant", text) for text in side] for side in sides)
    prompts = [says("user", f"film {i}?") for i in range(10)]
    return policies, HeldOut(None, None, pl.DataFrame({"prompt": prompts, "chosen": chosen, "rejected": rejected}))


def recipe(judge, **evaluation):
    document = {
        "name": "tiny",
        "model": {"source": "local", "path": "m"},
        "data": {"preferences": "p"},
        "alignment": {"algorithm": "dpo"},
        "evaluation": {"prompts": 8, "max_new_tokens": 6, "judge": judge, **evaluation},
    }
    return validate_recipe(document, "test")


@pytest.fixture
def function(monkeypatch):
    """Makes a judge of a function of (prompts, responses, rows)."""

    def build(judge):
        module = types.ModuleType("judge_of_this_test")
        module.judge = judge
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return {"name": f"{module.__name__}:judge"}

    return build


def test_a_response_that_a_judge_cannot_judge_masks_its_prompt_and_is_counted(setting, function, tmp_path):
    """It says None of two prompts: the win rate is over the other six, and the mean reward over the answers that have one."""
    policies, held_out = setting

    def judge(prompts, responses, rows):
        answered = zip(prompts, responses, strict=True)
        return [None if prompt in ("film 3?", "film 7?") else float(len(text)) for prompt, text in answered]

    numbers = evaluate(recipe(function(judge)), policies, held_out, tmp_path, Quiet()).metrics
    samples = pl.read_parquet(tmp_path / "samples.parquet")
    masked = samples["prompt"].is_in(["film 3?", "film 7?"])
    assert samples["reward_aligned"].is_null().to_list() == masked.to_list()
    there = samples.filter(~masked)
    won = [(a > b) + (a == b) / 2 for a, b in zip(there["reward_aligned"], there["reward_base"], strict=True)]
    expected = share_interval(won)
    assert [numbers[f"win_rate_vs_base{end}"] for end in ("", "_low", "_high")] == [expected.value, expected.low, expected.high]
    assert numbers["reward_aligned"] == pytest.approx(there["reward_aligned"].mean())
    assert numbers["unjudged_vs_base"] == masked.sum() > 0
    assert "length_controlled_win_rate_vs_base" in numbers


def test_a_judge_that_judges_nothing_is_refused(setting, function, tmp_path):
    with pytest.raises(Refusal, match="None for all of 8 answers"):
        evaluate(recipe(function(lambda p, r, rows: [None] * len(r))), *setting, tmp_path, Quiet())


def test_agreement_is_how_often_a_judge_prefers_what_people_chose(setting, function, tmp_path):
    """The longer response was chosen in eight pairs of ten. A function sees the columns and the tokens of both sides."""
    seen = []

    def judge(prompts, responses, rows):
        seen.append([(row["response_tokens"], row["prompt_tokens"], row["ended"]) for row in rows])
        return [float(len(text)) for text in responses]

    numbers = evaluate(recipe(function(judge)), *setting, tmp_path, Quiet()).metrics
    assert (numbers["judge_agreement"], numbers["judge_agreement_pairs"]) == (0.8, 10)
    assert numbers["judge_agreement_low"] < 0.8 < numbers["judge_agreement_high"]
    assert len(seen[-1]) == 20
    assert all(response >= 2 and prompt >= 2 and ended for response, prompt, ended in seen[-1])


def longer_wins(body, before):
    first, second = re.findall(r"\[response [AB] \w{12}\]\n(.*?)\n\[end", body["messages"][1]["content"], re.S)
    return f"Verdict: {'A' if len(first) > len(second) else 'B' if len(first) < len(second) else 'tie'}"


def endpoint(served, **more):
    return {"source": "endpoint", "url": served.url, "model": "m", "allow_http": True, "retries": 0, **more}


def test_a_language_model_compares_two_and_is_asked_once(setting, chat_server, tmp_path):
    """By length, as told in the samples; the second evaluation and the champion, which is the base, ask for nothing new."""
    policies, held_out = setting
    served = chat_server(longer_wins)
    judged, folders = recipe(endpoint(served)), [tmp_path / name for name in ("one", "two", "verdicts")]
    for folder in folders:
        folder.mkdir()
    first, again = (evaluate(judged, policies, held_out, folder, Quiet(), verdicts=folders[2]).metrics for folder in folders[:2])
    asked = len(served.requests)
    samples = pl.read_parquet(folders[0] / "samples.parquet")
    lengths = [(len(a), len(b)) for a, b in zip(samples["response_aligned"], samples["response_base"], strict=True)]
    won = [(a > b) + (a == b) / 2 for a, b in lengths]
    assert samples["won_vs_base"].to_list() == won
    assert first["win_rate_vs_base"] == np.mean(won)
    assert (first["judge_agreement"], first["judge_consistency"]) == (0.8, 1.0)
    assert (first["judge_failed"], first["judge_unparsable"], first["judge_out_of_budget"]) == (0, 0, 0)
    assert first | {"peak_memory_gb": 0} == again | {"peak_memory_gb": 0}
    match = Match(judged, policies["aligned"], policies["base"], held_out, folders[0], Quiet(), verdicts=folders[2])
    assert against_champion(match, "win_rate_vs_base") == share_interval(won)
    assert len(served.requests) == asked <= 2 * (8 + 10)


def test_pointwise_scores_are_rewards_and_those_that_are_lacking_are_counted(setting, chat_server, tmp_path):
    """Every third question has no score; the rest are rewards like any other."""
    served = chat_server(lambda body, before: "no idea" if before % 3 == 0 else f"Score: {1 + before % 5}")
    judged = recipe(endpoint(served, mode="pointwise", max_failed=0.5, pairs=0))
    numbers = evaluate(judged, *setting, tmp_path, Quiet()).metrics
    samples = pl.read_parquet(tmp_path / "samples.parquet")
    assert numbers["judge_unparsable"] == samples["reward_aligned"].null_count() + samples["reward_base"].null_count() > 0
    assert numbers["judge_questions"] == 16
    assert "judge_agreement" not in numbers


def test_a_server_that_fails_lags_and_contradicts_itself_loses_nothing(setting, chat_server, tmp_path, monkeypatch):
    """Every fourth request fails for now, every seventh answers too late, and what stands first always wins.

    Each question has a verdict in the end, since both are asked again; the counts say what the verdicts are worth: no comparison
    has a winner, and the agreement with people is that of a coin.
    """
    monkeypatch.setattr(chat_endpoint, "FIRST_PAUSE", 0.001)
    late = []

    def answer(body, before):
        if before % 4 == 1:
            return (503, "busy")
        if before % 7 == 2:
            late.append(before)
            time.sleep(1.0)
        return "Verdict: A"

    served = chat_server(answer)
    judged = recipe(endpoint(served, retries=8, timeout_seconds=0.5, max_failed=0.0))
    numbers = evaluate(judged, *setting, tmp_path, Quiet()).metrics
    samples = pl.read_parquet(tmp_path / "samples.parquet")
    differ = (samples["response_aligned"] != samples["response_base"]).sum()
    assert len(late) > 1
    assert numbers["judge_questions"] == 2 * (differ + 10) < len(served.requests)
    assert (numbers["judge_failed"], numbers["judge_unparsable"], numbers["judge_out_of_budget"]) == (0, 0, 0)
    assert samples["won_vs_base"].to_list() == [0.5] * samples.height
    assert (numbers["win_rate_vs_base"], numbers["judge_agreement"], numbers["judge_consistency"]) == (0.5, 0.5, 0.0)
    assert numbers["judge_contradictions"] == differ + 10
