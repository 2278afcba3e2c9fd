"""A candidate against the champion: the same pairs, the same reference, and the differences that independent code finds."""

from __future__ import annotations

import math

import polars as pl
import pytest
import torch

from posttrain.checkpoints.load import scratch_model
from posttrain.data.encode import encode_conversations
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from posttrain.evaluation.evaluate import HeldOut, evaluate, open_policy
from posttrain.evaluation.head_to_head import Match, against_champion
from posttrain.models.policy import Policy
from posttrain.runtime.progress import Quiet
from posttrain.scoring.reference import score_branches
from posttrain.statistics.intervals import ratio_interval, share_interval
from schemas.errors import Refusal
from schemas.estimates import Estimate
from schemas.load import validate_recipe
from schemas.model import ScratchModel

TEXTS = [f"the film number {i} was {'good' if i % 2 else 'bad'} and long" for i in range(40)]
BETA = 5.0


def says(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


@pytest.fixture(scope="module")
def tokenizer():
    return prepare_tokenizer(train_tokenizer(TEXTS, 300))


@pytest.fixture(scope="module")
def policy(tokenizer, tmp_path_factory):
    """Makes a policy with weights of its own."""

    def make(seed: int, max_length: int = 256) -> Policy:
        folder = tmp_path_factory.mktemp("policy")
        spec = ScratchModel(source="scratch", architecture="gpt2", hidden_size=16, layers=1, heads=2, max_length=max_length)
        model = scratch_model(spec, tokenizer, seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(8)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return Policy(str(folder))

    return make


@pytest.fixture
def held_out() -> HeldOut:
    prompts = [says("user", f"film {i}? " * (1 + 2 * i)) for i in range(10)]
    chosen = [says("assistant", text) for text in TEXTS[:10]]
    pairs = {"prompt": prompts, "chosen": chosen, "rejected": [says("assistant", "bad and long")] * 10}
    return HeldOut(None, pl.DataFrame({"prompt": prompts, "completion": chosen}), pl.DataFrame(pairs))


def recipe(**sections):
    document = {
        "name": "tiny",
        "model": {"source": "local", "path": "m"},
        "data": {"instructions": "i", "preferences": "p"},
        "evaluation": {"prompts": 8, "max_new_tokens": 4},
        **sections,
    }
    return validate_recipe(document, "test")


ALIGNED = recipe(alignment={"algorithm": "dpo", "beta": BETA})


@pytest.fixture
def match(policy, held_out, tmp_path):
    """Evaluates a candidate against its reference, and sets it against a champion."""

    def make(asked=ALIGNED, champion_length: int = 256, held_out: HeldOut = held_out) -> tuple[Match, Policy]:
        reference, candidate, champion = policy(0), policy(1), policy(2, champion_length)
        if asked is ALIGNED:
            evaluate(asked, {"base": reference, "aligned": candidate}, held_out, tmp_path, Quiet())
        return Match(asked, candidate, champion, held_out, tmp_path, Quiet()), reference

    return make


def margins(policy: Policy, reference: Policy, table: pl.DataFrame, limit: int = 256) -> list[float]:
    """β times the difference of the log-ratios; the policy reads `limit` tokens."""
    found = []
    for each, length in ((policy, limit), (reference, 256)):
        scorer, tokenizer = open_policy(ALIGNED, each)
        pairs = encode_conversations(table, tokenizer, length, "data").examples
        found.append(score_branches(scorer, pairs, 10**6).double())
    ratios = found[0] - found[1]
    return (BETA * (ratios[:, 0] - ratios[:, 1])).tolist()


def test_accuracy_is_the_difference_of_what_both_win_paired_by_pair(match, held_out):
    asked, reference = match()
    ours, theirs = (margins(each, reference, held_out.preferences) for each in (asked.candidate, asked.champion))
    differences = [float(mine > 0) - float(other > 0) for mine, other in zip(ours, theirs, strict=True)]
    assert len(set(differences)) > 1, "policies that agree in every pair prove nothing"
    found, expected = against_champion(asked, "preference_accuracy"), share_interval(differences, -1, 1)
    assert found == Estimate(expected.value, pytest.approx(expected.interval))


def test_the_loss_of_a_champion_is_that_of_this_runs_alignment(match, held_out):
    """-log sigmoid(margin) of both, each margin against this run's reference; positive where the candidate's is lower."""
    asked, reference = match()
    ours, theirs = (margins(each, reference, held_out.preferences) for each in (asked.candidate, asked.champion))
    differences = [math.log1p(math.exp(-other)) - math.log1p(math.exp(-mine)) for mine, other in zip(ours, theirs, strict=True)]
    expected, found = ratio_interval(differences), against_champion(asked, "validation_loss")
    assert found.value == pytest.approx(expected.value, rel=1e-3)
    assert found.interval == pytest.approx(expected.interval, rel=1e-3)


def test_after_sft_it_is_the_cross_entropy_of_the_answers_per_token(match, held_out):
    asked, _ = match(recipe(sft={}))
    sums, tokens = [], 0
    for each in (asked.candidate, asked.champion):
        scorer, tokenizer = open_policy(asked.recipe, each)
        answers = encode_conversations(held_out.instructions, tokenizer, 256, "data").examples
        tokens = sum(len(answer.branches[0]) for answer in answers)
        sums.append(float(score_branches(scorer, answers, 10**6).sum()))
    found = against_champion(asked, "validation_loss")
    assert found.value == pytest.approx((sums[0] - sums[1]) / tokens, rel=1e-4)
    assert found.low < found.value < found.high


def test_only_rows_that_both_can_read_are_compared(match, held_out):
    """The answer of row 4 is longer than the 64 positions of the champion, which reads the others, prompts cut on the left."""
    long = held_out.preferences["chosen"].to_list()
    long[4] = says("assistant", " ".join(TEXTS[:10]))
    table = held_out.preferences.with_columns(chosen=pl.Series(long))
    asked, reference = match(champion_length=64, held_out=HeldOut(None, None, table))
    rest = table.with_row_index().filter(pl.col("index") != 4)
    ours, theirs = margins(asked.candidate, reference, rest), margins(asked.champion, reference, rest, 64)
    differences = [float(mine > 0) - float(other > 0) for mine, other in zip(ours, theirs, strict=True)]
    assert len(differences) == 9
    found, expected = against_champion(asked, "preference_accuracy"), share_interval(differences, -1, 1)
    assert found == Estimate(expected.value, pytest.approx(expected.interval))


def test_no_common_row_is_refused(match):
    asked, _ = match(champion_length=8)
    with pytest.raises(Refusal, match=r"registry\.promote_on: found no held-out row"):
        against_champion(asked, "preference_accuracy")


def test_a_candidate_is_as_good_as_itself(match):
    asked, _ = match()
    same = Match(asked.recipe, asked.candidate, asked.candidate, asked.held_out, asked.evaluation, Quiet())
    found = against_champion(same, "preference_accuracy")
    assert found.value == 0
    spread = math.sqrt((10 / 4 + 2) / 14 - 1 / 4)  # of ten ties, two wins and two losses; 2.1604 is the t of 13
    assert found.interval == pytest.approx((-2 * 2.1604 * spread / math.sqrt(13), 2 * 2.1604 * spread / math.sqrt(13)), rel=1e-4)
    found = against_champion(same, "validation_loss")
    assert (found.value, *found.interval) == pytest.approx((0, 0, 0), abs=1e-12)
