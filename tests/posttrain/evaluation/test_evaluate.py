"""Evaluation: who is compared with whom, on what, and that the numbers follow from the responses."""

from __future__ import annotations

import json
import math
from typing import get_args

import numpy as np
import polars as pl
import pytest
import torch

from posttrain.checkpoints.load import scratch_model
from posttrain.data.encode import encode_conversations
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from posttrain.evaluation import evaluate as evaluation
from posttrain.evaluation.evaluate import HeldOut, asked, evaluate, open_policy, respond
from posttrain.evaluation.numbers import read_pairs
from posttrain.models.policy import Policy
from posttrain.peft.wrap import save_trained, wrap
from posttrain.rewards.judge import open_judge
from posttrain.runtime.progress import Quiet
from posttrain.scoring.reference import score_branches
from posttrain.statistics.intervals import win_rate
from schemas.load import validate_recipe
from schemas.model import ScratchModel
from schemas.peft import PromptTuning
from schemas.training import DPO, PreferenceLoss


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Three tiny policies that differ in their weights, and held-out rows."""
    texts = [f"the film number {i} was {'good' if i % 2 else 'bad'} and long" for i in range(40)]
    tokenizer = prepare_tokenizer(train_tokenizer(texts, 300))
    policies = {}
    for seed, name in enumerate(("base", "sft", "aligned")):
        folder = tmp_path_factory.mktemp(name)
        spec = ScratchModel(source="scratch", hidden_size=16, layers=1, heads=2, kv_heads=1)
        scratch_model(spec, tokenizer, seed).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        policies[name] = Policy(str(folder))
    sides = {"chosen": [assistant("good")] * 10, "rejected": [assistant("bad and long")] * 10}
    preferences = pl.DataFrame({"prompt": [user(f"film {i}?") for i in range(10)], **sides})
    return policies, HeldOut(pl.DataFrame({"text": texts[:5]}), None, preferences)


def recipe(**evaluation):
    document = {
        "name": "tiny",
        "model": {"source": "scratch", "hidden_size": 16, "layers": 1, "heads": 2, "kv_heads": 1},
        "data": {"corpus": "c", "instructions": "i", "preferences": "p"},
        "pretrain": {"tokens": 10},
        "sft": {},
        "alignment": {"algorithm": "dpo", "beta": 0.5},
        "evaluation": {"prompts": 8, "max_new_tokens": 6, "judge": {"name": "posttrain.data.samples:sentiment"}, **evaluation},
    }
    return validate_recipe(document, "test")


def test_numbers_in_the_files_follow_from_rewards_and_pairs(setting, tmp_path):
    policies, held_out = setting
    built = evaluate(recipe(), policies, held_out, tmp_path, Quiet())
    samples = pl.read_parquet(tmp_path / "samples.parquet")
    written = json.loads((tmp_path / "evaluation.json").read_text())
    for entry in written["win_rates"]:
        rate = win_rate(samples["reward_aligned"].to_list(), samples[f"reward_{entry['opponent']}"].to_list())
        assert (entry["value"], tuple(entry["interval"])) == (rate.value, rate.interval)
    assert {entry["opponent"] for entry in written["win_rates"]} == {"base", "sft"}
    assert [entry["policy"] for entry in written["policies"]] == ["base", "sft", "aligned"]
    assert samples.height == 8
    assert built.metrics["win_rate_vs_sft"] == next(e["value"] for e in written["win_rates"] if e["opponent"] == "sft")
    points, pairs = written["reliability"], built.metrics["held_out_pairs"]  # of which the mean distance is the calibration error
    assert sum(point["pairs"] for point in points) == pairs
    distances = sum(point["pairs"] * abs(point["accuracy"] - point["confidence"]) for point in points)
    assert distances / pairs == pytest.approx(built.metrics["calibration_error"])


def test_without_a_judge_answers_are_drawn_and_not_judged(setting, tmp_path):
    """No reward and no win rate; all else is what it is with a judge."""
    policies, held_out = setting
    numbers = evaluate(recipe(), policies, held_out, tmp_path, Quiet()).metrics
    plain = evaluate(recipe(judge=None), policies, held_out, tmp_path, Quiet()).metrics
    words = ("reward", "win_rate", "judge")
    without = {name: value for name, value in numbers.items() if not any(word in name for word in words)}
    assert plain | {"peak_memory_gb": 0} == without | {"peak_memory_gb": 0}
    assert {"kl_per_token", "preference_accuracy", "eos_share_aligned", "response_tokens_base"} <= plain.keys()
    assert pl.read_parquet(tmp_path / "samples.parquet").columns == [
        "prompt", "source", *(f"response_{name}" for name in policies)
    ]  # fmt: skip
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert (written["win_rates"], [entry["reward"] for entry in written["policies"]]) == ([], [None] * 3)


class Recorder(Quiet):
    """Keeps what was started, and how far it came."""

    def __init__(self) -> None:
        self.work: list[list] = []

    def start(self, what: str, total: int) -> None:
        self.work.append([what, total, 0])

    def advance(self, done: int, metrics: dict[str, float]) -> None:
        self.work[-1][2] = done


def test_each_policy_is_loaded_once_the_candidate_first_and_tells_of_all_its_work(setting, tmp_path, monkeypatch):
    """The reference scores the candidate's answers while it is in memory; the base is not asked."""
    loaded, load = [], evaluation.load_model
    monkeypatch.setattr(evaluation, "load_model", lambda policy, device: loaded.append(policy) or load(policy, device))
    policies, held_out = setting
    evaluate(recipe(), policies, held_out, tmp_path, progress := Recorder())
    assert loaded == [policies["aligned"], policies["sft"], policies["base"]]
    assert [what for what, _, _ in progress.work] == [
        *(f"evaluate {name}: {what}" for name in ("aligned", "sft")
          for what in ("sampling", "judging", "perplexity", "pairs", "divergence")),
        *(f"evaluate base: {what}" for what in ("sampling", "judging", "perplexity", "pairs")),
        "evaluate: judging pairs",
    ]  # fmt: skip
    assert all(total == done > 0 for _, total, done in progress.work)


def test_scores_of_pairs_that_are_known_are_not_computed_again(setting, tmp_path):
    """Known but the third: what is given goes into the margin, and the reference scores one pair."""
    policies, held_out = setting
    evaluate(recipe(), policies, held_out, tmp_path, Quiet())
    own = read_pairs(tmp_path, "sft")

    def known(pairs):
        assert len(pairs) == 10
        given = own.logprobs - torch.tensor([1.0, 0.0])
        given[2] = math.nan
        return given

    evaluate(recipe(), policies, held_out, tmp_path, progress := Recorder(), known=known)
    assert [total for what, total, _ in progress.work if what.endswith(": pairs")] == [10, 1, 10]
    shift = own.logprobs - read_pairs(tmp_path, "sft").logprobs
    assert torch.allclose(shift, torch.tensor([[0.0 if row == 2 else 1.0, 0.0] for row in range(10)]), atol=1e-4)


def test_several_answers_to_a_prompt_stand_together_and_count_as_one_prompt(setting, tmp_path):
    policies, held_out = setting
    numbers = evaluate(recipe(samples=3), policies, held_out, tmp_path, Quiet()).metrics
    samples = pl.read_parquet(tmp_path / "samples.parquet")
    prompts = samples["prompt"].to_list()
    assert prompts == [prompt for prompt in prompts[::3] for _ in range(3)]
    assert len(set(prompts)) == 8
    assert samples["response_aligned"][:3].n_unique() == 3
    rewards = {name: samples[f"reward_{name}"].to_list() for name in policies}
    rate = win_rate(rewards["aligned"], rewards["sft"], samples=3)
    found = [numbers[f"win_rate_vs_sft{end}"] for end in ("", "_low", "_high")]
    assert found == [rate.value, rate.low, rate.high]


def test_a_candidate_equal_to_its_parent_ties_everything(setting, tmp_path):
    """The same weights and seed give the same responses: win rate one half, no KL, accuracy one half, perplexity ratio 1."""
    policies, held_out = setting
    same = {"base": policies["base"], "sft": policies["base"], "aligned": policies["base"]}
    numbers = evaluate(recipe(), same, held_out, tmp_path, Quiet()).metrics
    assert numbers["win_rate_vs_sft"] == 0.5
    assert numbers["win_rate_vs_sft_low"] < 0.5, "eight ties do not prove that there is never a win"
    assert numbers["kl_per_token"] == 0.0
    assert numbers["preference_accuracy"] == 0.5
    assert numbers["perplexity_ratio_vs_base"] == 1.0


def test_perplexity_of_a_model_with_zero_head_is_the_size_of_its_vocabulary(setting, tmp_path):
    """All logits 0 make every token equally likely: exp(ln V) = V."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policies, held_out = setting
    model = AutoModelForCausalLM.from_pretrained(policies["base"].base)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.save_pretrained(tmp_path / "flat")
    tokenizer = AutoTokenizer.from_pretrained(policies["base"].base)
    tokenizer.save_pretrained(tmp_path / "flat")
    flat = {**policies, "aligned": Policy(str(tmp_path / "flat"))}
    numbers = evaluate(recipe(), flat, held_out, tmp_path, Quiet()).metrics
    assert math.isclose(numbers["perplexity_aligned"], len(tokenizer), rel_tol=1e-5)


def test_kl_against_the_parent_is_what_the_two_models_say(setting, tmp_path):
    """k1 on the candidate's own samples, computed here with plain transformers logits."""
    policies, held_out = setting
    numbers = evaluate(recipe(), policies, held_out, tmp_path, Quiet()).metrics
    candidate, tokenizer = open_policy(recipe(), policies["aligned"])
    parent, _ = open_policy(recipe(), policies["sft"])
    assert not any(parameter.requires_grad for parameter in candidate.parameters()), "no check makes their gradients"
    answers = respond(
        recipe(), "aligned", candidate, tokenizer, asked(held_out, recipe().evaluation), Quiet(), open_judge(recipe()), 256
    ).examples
    total, tokens = 0.0, 0
    for example in answers:
        ids = torch.from_numpy(np.concatenate([example.prompt, example.branches[0]]).astype(np.int64))[None]
        rows = []
        for scorer in (candidate, parent):
            with torch.no_grad():
                logprobs = scorer.model(ids).logits.log_softmax(-1)[0, len(example.prompt) - 1 : -1]
            rows.append(logprobs.gather(1, ids[0, len(example.prompt) :, None]).sum())
        total, tokens = total + float(rows[0] - rows[1]), tokens + len(example.branches[0])
    assert numbers["kl_per_token"] == pytest.approx(total / tokens, abs=1e-4)


NUMBERS = {"robust": {"label_smoothing": 0.1}, "simpo": {"simpo_gamma": 0.5}}


@pytest.mark.parametrize("loss", get_args(PreferenceLoss))
def test_the_margin_is_in_the_unit_of_the_loss_and_against_the_parent(setting, tmp_path, loss):
    """β = 0.5, of log-ratios to the SFT policy, also where training knows no reference: sums, or means over a response."""
    policies, held_out = setting
    alignment = DPO(algorithm="dpo", beta=0.5, loss=loss, **NUMBERS.get(loss, {}))
    numbers = evaluate(recipe().model_copy(update={"alignment": alignment}), policies, held_out, tmp_path, Quiet()).metrics
    candidate, tokenizer = open_policy(recipe(), policies["aligned"])
    parent, _ = open_policy(recipe(), policies["sft"])
    pairs = encode_conversations(held_out.preferences, tokenizer, 10**6, "data").examples
    ratios = (score_branches(candidate, pairs, 10**6) - score_branches(parent, pairs, 10**6)).tolist()
    per_token = loss in {"ipo", "sigmoid_norm", "simpo", "orpo"}
    lengths = [[len(branch) if per_token else 1 for branch in pair.branches] for pair in pairs]
    margins = [0.5 * (c / n - r / m) for (c, r), (n, m) in zip(ratios, lengths, strict=True)]
    assert len(pairs[0].branches[0]) != len(pairs[0].branches[1])
    assert numbers["preference_margin"] == pytest.approx(sum(margins) / len(margins), rel=1e-3, abs=1e-5)
    assert numbers["preference_accuracy"] == pytest.approx(sum(m > 0 for m in margins) / len(margins))


def other_family(architecture: str, max_length: int, tmp_path_factory) -> dict[str, Policy]:
    """Three tiny policies of another architecture."""
    texts = [f"the film number {i} was {'good' if i % 2 else 'bad'} and long" for i in range(40)]
    tokenizer, policies = prepare_tokenizer(train_tokenizer(texts, 300)), {}
    spec = {
        "source": "scratch",
        "architecture": architecture,
        "hidden_size": 16,
        "layers": 1,
        "heads": 2,
        "max_length": max_length,
    }
    for seed, name in enumerate(("base", "sft", "aligned")):
        policies[name] = Policy(str(tmp_path_factory.mktemp(name)))
        scratch_model(ScratchModel.model_validate(spec), tokenizer, seed).save_pretrained(policies[name].base)
        tokenizer.save_pretrained(policies[name].base)
    return policies


def test_an_encoder_decoder_is_measured_by_its_own_loss(setting, tmp_path, tmp_path_factory):
    """Perplexity is exp of the loss that T5 computes itself when it is given prompts and labels, weighted by tokens."""
    policies, preferences = other_family("t5", 64, tmp_path_factory), setting[1].preferences
    numbers = evaluate(recipe(), policies, HeldOut(None, None, preferences), tmp_path, Quiet()).metrics
    scorer, tokenizer = open_policy(recipe(), policies["aligned"])
    encoded = encode_conversations(preferences.drop("rejected"), tokenizer, 64, "data", encoder_decoder=True)
    total, tokens = 0.0, 0
    for example in encoded.examples:
        prompt, labels = (torch.from_numpy(part.astype(np.int64))[None] for part in (example.prompt, example.branches[0]))
        with torch.no_grad():
            total += float(scorer.model(input_ids=prompt, labels=labels).loss) * labels.numel()
        tokens += labels.numel()
    assert numbers["perplexity_aligned"] == pytest.approx(math.exp(total / tokens), rel=1e-4)
    assert numbers["kl_per_token"] != 0
    assert 1 <= numbers["response_tokens_aligned"] <= 6


def test_a_model_with_learned_positions_is_measured_within_them(setting, tmp_path, tmp_path_factory):
    """40 positions are fewer than the tokens of a longer prompt: it is cut on the left to leave room for the answer."""
    policies, held_out = other_family("gpt2", 40, tmp_path_factory), setting[1]
    long = held_out.preferences.with_columns(prompt=pl.Series([user(f"film {i} " * 20) for i in range(10)]))
    rows = HeldOut(held_out.documents, None, long)
    numbers = evaluate(recipe(), policies, rows, tmp_path, Quiet()).metrics
    assert all(math.isfinite(value) for value in numbers.values())
    scorer, tokenizer = open_policy(recipe(), policies["base"])
    prompts = asked(rows, recipe().evaluation)
    answers = respond(recipe(), "base", scorer, tokenizer, prompts, Quiet(), open_judge(recipe()), 40).examples
    assert {len(example.prompt) for example in answers} == {40 - 6}
    assert tokenizer.decode(answers[0].prompt).endswith("Assistant:\n")


def test_virtual_tokens_take_some_of_its_positions_for_all_policies(setting, tmp_path, tmp_path_factory):
    """40 positions less 10: texts and pairs of up to 30 tokens are measured, the same ones under every policy."""
    policies, held_out = other_family("gpt2", 40, tmp_path_factory), setting[1]
    spec = PromptTuning(method="prompt_tuning", virtual_tokens=10)
    scorer, tokenizer = open_policy(recipe(), policies["sft"])
    save_trained(wrap(scorer.model, spec, 0, "alignment.peft"), None, spec, policies["sft"], tmp_path)
    policies["aligned"] = Policy(policies["sft"].base, adapters=(tmp_path / "adapter",))
    long = held_out.preferences.with_columns(prompt=pl.Series([user(f"film {i} " * (1 + 2 * i)) for i in range(10)]))
    rows = HeldOut(pl.DataFrame({"text": ["the film was good and long " * 20] * 3}), None, long)
    numbers = evaluate(recipe(), policies, rows, tmp_path, Quiet()).metrics
    assert all(math.isfinite(value) for value in numbers.values())
    scorer, _ = open_policy(recipe(), policies["aligned"])
    prompts = asked(rows, recipe().evaluation)
    answers = respond(recipe(), "aligned", scorer, tokenizer, prompts, Quiet(), open_judge(recipe()), 30).examples
    assert max(len(example.prompt) for example in answers) == 40 - 10 - 6
