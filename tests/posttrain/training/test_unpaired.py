"""KTO's objective: what is mismatched, what a step estimates of it, and that micro-batches change nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from posttrain.data.packing import Example
from posttrain.losses.kto import Weights
from posttrain.scoring.reference import score_branches
from posttrain.scoring.scorer import Scorer
from posttrain.training.step_zero import step_0_gate_unpaired
from posttrain.training.unpaired import Answers, Unpaired, mismatches
from posttrain.training.validation import loss_at_start, mean_loss

SIZES = [(5, 4), (9, 3), (2, 6), (7, 8), (4, 2), (6, 5)]  # of prompt and answer
LABELS = [True, False, False, True, True, False]
BUDGET = 10**6


@pytest.fixture
def examples(random_examples):
    """Six answers; the first and the third have one prompt."""
    found = random_examples(SIZES)
    found[2] = Example(found[0].prompt, found[2].branches)
    return found


@pytest.fixture
def scorers(tiny_llama):
    """Two policies: the one that trains, and its reference."""
    return [Scorer(tiny_llama(seed=seed, initializer_range=0.2), torch.device("cpu")).eval() for seed in (0, 1)]


@pytest.fixture
def objective(examples, scorers):
    """Builds the objective with a reference's scores of everything; by default the second policy's."""

    def build(reference=None, **weights) -> Unpaired:
        reference = reference or scorers[1]
        answers = Answers(examples, torch.tensor(LABELS), 64)
        pairs = [(row, other) for row in range(6) for other in range(6) if row != other]
        elsewhere = score_branches(reference, answers.mismatched(pairs), BUDGET)[:, 0].tolist()
        known = score_branches(reference, examples, BUDGET)[:, 0]
        return Unpaired(answers, known, dict(zip(pairs, elsewhere, strict=True)), Weights(0.2, **weights))

    return build


def plain_logprob(scorer: Scorer, prompt: np.ndarray, answer: np.ndarray) -> float:
    """By the model's own logits, one sequence at a time."""
    ids = torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64))[None]
    with torch.no_grad():
        logprobs = scorer.model(input_ids=ids).logits.double().log_softmax(-1)[0]
    at = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return sum(float(logprobs[position, ids[0, position + 1]]) for position in at)


def test_each_row_meets_the_next_answer_to_another_prompt():
    """Prompts 0 0 1 2: the first row passes over the second, which has its prompt; the last starts again."""
    assert mismatches([4, 7, 5, 6], {4: 0, 7: 0, 5: 1, 6: 2}) == [(4, 5), (7, 5), (5, 6), (6, 4)]
    assert mismatches([4, 7], {4: 0, 7: 0}) == []
    assert mismatches([4], {4: 0}) == []


def test_a_mismatch_that_is_too_long_loses_the_start_of_its_prompt_but_not_bos(examples):
    """Prompt of 9 tokens with an answer of 8 in 12: 4 of the prompt are left, the first of them BOS."""
    bos = int(examples[1].prompt[0])
    (found,) = Answers(examples, torch.tensor(LABELS), 12, bos).mismatched([(1, 3)])
    assert found.prompt.tolist() == [bos, *examples[1].prompt[-3:].tolist()]
    assert np.array_equal(found.branches[0], examples[3].branches[0])


def test_a_step_equals_plain_arithmetic_on_the_models_own_logits(examples, scorers, objective):
    """Rows 1, 0, 2, 4 of a step: 1 meets 0's answer, 0 and 2, which share a prompt, meet 4's, and 4 meets 1's."""
    loss = objective(desirable=1.5, undesirable=0.5)
    rows = [1, 0, 2, 4]
    loss.begin(scorers[0], rows, BUDGET)
    value, sums = loss.loss(scorers[0]([examples[row] for row in rows]), rows)

    def ratio(prompt: int, answer: int) -> float:
        given = examples[prompt].prompt, examples[answer].branches[0]
        return plain_logprob(scorers[0], *given) - plain_logprob(scorers[1], *given)

    z = max(0.0, sum(ratio(*pair) for pair in [(1, 0), (0, 4), (2, 4), (4, 1)]) / 4)
    ratios = {row: ratio(row, row) for row in rows}
    expected = sum(
        1.5 / (1 + math.exp(0.2 * (ratios[row] - z))) if LABELS[row] else 0.5 / (1 + math.exp(0.2 * (z - ratios[row])))
        for row in rows
    )
    assert float(loss.z) == pytest.approx(z, abs=1e-4)
    assert float(value) == pytest.approx(expected, abs=1e-4)
    assert float(sums["reward_desirable"]) / 4 == pytest.approx(0.2 * (ratios[0] + ratios[4]) / 2, abs=1e-4)
    assert float(sums["reward_undesirable"]) / 4 == pytest.approx(0.2 * (ratios[1] + ratios[2]) / 2, abs=1e-4)
    right = [(ratios[row] > z) == LABELS[row] for row in rows]
    assert float(sums["label_accuracy"]) == sum(right)
    assert float(sums["divergence"]) / 4 == pytest.approx(z, abs=1e-4)


def test_micro_batches_add_up_to_the_step(examples, scorers, objective):
    """One pass over six rows, or one pass for each: the divergence is the step's in both, and so is every mean."""
    loss, rows = objective(), list(range(6))
    loss.begin(scorers[0], rows, BUDGET)
    whole, sums = loss.loss(scorers[0](examples), rows)
    parts = [loss.loss(scorers[0]([examples[row]]), [row]) for row in rows]
    assert float(sum(value for value, _ in parts)) == pytest.approx(float(whole), abs=1e-5)
    for name, value in sums.items():
        assert float(sum(each[name] for _, each in parts)) == pytest.approx(float(value), abs=1e-4), name


def test_no_gradient_flows_through_the_divergence_and_dropout_does_not_touch_it(examples, scorers, objective, tiny_llama):
    loss, rows = objective(), list(range(6))
    dropping = Scorer(tiny_llama(seed=0, initializer_range=0.2, attention_dropout=0.5), torch.device("cpu")).train()
    state = torch.get_rng_state()
    loss.begin(dropping, rows, BUDGET)
    noisy = float(loss.z)
    loss.begin(scorers[0], rows, BUDGET)
    assert noisy == float(loss.z)
    assert dropping.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not loss.z.requires_grad


def test_a_step_of_one_label_or_one_prompt_has_the_numbers_that_there_are(examples, scorers, objective):
    loss = objective()
    loss.begin(scorers[0], [0, 3], BUDGET)
    _, sums = loss.loss(scorers[0]([examples[0], examples[3]]), [0, 3])
    assert "reward_desirable" in sums
    assert "reward_undesirable" not in sums
    loss.begin(scorers[0], [0, 2], BUDGET)  # which have one prompt
    assert float(loss.z) == 0.0


def test_the_loss_at_the_start_is_known(scorers, objective):
    """r = z = 0: half of the mean weight, (3 · 1.5 + 3 · 0.5) / 6 / 2 = 0.5; with weights 1 and 0.4: 0.35."""
    equal = objective(scorers[0], desirable=1.0, undesirable=0.4)
    assert equal.at_start == pytest.approx(0.35)
    assert loss_at_start(scorers[0], equal, BUDGET) == equal.at_start
    assert mean_loss(scorers[0], equal, BUDGET) == pytest.approx(0.35, abs=1e-5)
    assert objective(scorers[0], desirable=1.5, undesirable=0.5).at_start == pytest.approx(0.5)


def test_the_validation_loss_does_not_depend_on_the_budget(scorers, objective):
    loss = objective()
    assert mean_loss(scorers[0], loss, 12) == pytest.approx(mean_loss(scorers[0], loss, BUDGET), abs=1e-5)


def test_the_gate_stops_at_another_reference(scorers, objective):
    step_0_gate_unpaired(scorers[0], objective(scorers[0]))
    with pytest.raises(RuntimeError, match=r"step-0 gate: .* policy and reference differ"):
        step_0_gate_unpaired(scorers[0], objective())
    moved = objective(scorers[0])
    moved.elsewhere = {pair: value + 1 for pair, value in moved.elsewhere.items()}
    with pytest.raises(RuntimeError, match=r"reward -?0\.00\d+ \(.*\) and divergence -0\.2"):
        step_0_gate_unpaired(scorers[0], moved)
