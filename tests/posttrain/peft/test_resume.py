"""Training with every method through the real loop: interrupted and resumed, it ends in the bits of an uninterrupted run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from posttrain.peft.wrap import wrap
from posttrain.runtime.partial import CHECKPOINT
from posttrain.runtime.progress import Quiet
from posttrain.scoring.layout_choice import choose_layout
from posttrain.scoring.scorer import Scorer
from posttrain.training.batches import by_rows
from posttrain.training.curve import CURVE
from posttrain.training.loop import Job, train
from posttrain.training.objectives import LanguageModelling
from schemas.recipe import Compute
from schemas.training import Optimization

CPU = torch.device("cpu")
SIZES = [(5, 4), (9, 3), (2, 6), (7, 8), (4, 2), (6, 5)]  # of prompt and answer, in tokens
DROPOUT = {"llama": {"attention_dropout": 0.2}, "t5": {"dropout_rate": 0.2}}  # a run must restore the random state too
ON_LLAMA = [
    "full", "lora", "lora dora", "lora pissa", "lora olora", "adalora", "vera", "oft", "loha", "lokr", "bottleneck houlsby",
    "bottleneck pfeiffer", "bottleneck parallel", "prompt_tuning", "prefix_tuning", "prefix_tuning projected", "p_tuning",
    "p_tuning lstm", "ia3", "ln_tuning", "bitfit", "last_layers", "last_layers head",
]  # fmt: skip
ON_T5 = ["full", "lora", "adalora", "bottleneck houlsby", "prompt_tuning", "prefix_tuning", "last_layers"]
CASES = [(name, "llama") for name in ON_LLAMA] + [(name, "t5") for name in ON_T5]


@pytest.fixture
def job(spec, tiny, random_examples, tmp_path):
    """Builds a job of 6 steps on 6 examples, with a checkpoint after each where it is asked for."""

    def build(case: tuple[str, str], out: str, checkpoint_seconds: float, progress: Quiet) -> Job:
        (name, kind), folder = case, tmp_path / out
        folder.mkdir(exist_ok=True)
        model = wrap(tiny(kind, **DROPOUT[kind]), spec(name), 0, "sft.peft")
        scorer, examples = Scorer(model, CPU).eval(), random_examples(SIZES)
        choose_layout(scorer, examples).apply(scorer)
        compute = Compute(log_every=1, checkpoint_seconds=checkpoint_seconds)
        rates = Optimization(learning_rate=0.01, weight_decay=0.1)
        return Job("sft", scorer, LanguageModelling(examples), by_rows(6, 2, 2, seed=0), rates, compute, folder, progress)

    return build


def weights(job: Job) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in job.scorer.model.state_dict().items()}


def losses(out: Path) -> list[tuple[int, float, float]]:
    lines = [json.loads(line) for line in (out / CURVE).read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[1]}".replace(" ", "-"))
def test_an_interrupted_run_ends_in_the_bits_of_an_uninterrupted_one(job, case, stop_at):
    """It dies while it reports step 4, after the checkpoint of step 3."""
    whole = job(case, "whole", 1e6, Quiet())
    start = weights(whole)
    train(whole)
    first = job(case, "cut", 1e-9, stop_at(4))
    with pytest.raises(KeyboardInterrupt):
        train(first)
    assert [path.name for path in (first.out / CHECKPOINT).iterdir()] == ["000000003"]
    second = job(case, "cut", 1e6, Quiet())
    torch.manual_seed(98)  # another process has another random state
    train(second)

    expected, found = weights(whole), weights(second)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert any(not torch.equal(expected[name], tensor) for name, tensor in start.items())
    assert losses(second.out) == losses(whole.out)
