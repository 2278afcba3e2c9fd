"""Divergence at the temperature of the samples: evaluation's and PPO's, against the exact KL of plain softmaxes."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.data.packing import Example
from posttrain.evaluation import evaluate as evaluation
from posttrain.evaluation.evaluate import HeldOut, evaluate
from posttrain.models.policy import Policy
from posttrain.runtime.progress import Quiet
from schemas.load import validate_recipe

TEMPERATURE = 0.3


def recipe(**changes):
    document = {
        "name": "tiny", "model": {"source": "local", "path": "m"}, "data": {"preferences": "p"},
        "alignment": {"algorithm": "dpo"}, "evaluation": {"prompts": 16, "samples": 4, "max_new_tokens": 8, **changes},
    }  # fmt: skip
    return validate_recipe(document, "test")


@pytest.fixture
def policies(tmp_path, tiny_llama, tokenizer):
    """A reference and a candidate whose weights lie beside it."""
    found = {}
    for name, moved in (("base", 0.0), ("aligned", 0.05)):
        model = tiny_llama(len(tokenizer), initializer_range=0.2)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(moved * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        found[name] = Policy(str(tmp_path / name))
    return found


def divergence(models, examples: list[Example], temperature: float) -> tuple[float, float]:
    """Per token: the exact KL of the two next-token distributions along the samples, and the log-ratio of what was drawn."""
    exact, drawn = [], []
    for example in examples:
        ids = torch.from_numpy(np.concatenate([example.prompt, example.branches[0]]).astype(np.int64))[None]
        with torch.no_grad():
            ours, theirs = (
                (m(ids).logits[0, len(example.prompt) - 1 : -1].double() / temperature).log_softmax(-1) for m in models
            )
        exact.append((ours.exp() * (ours - theirs)).sum(-1))
        drawn.append((ours - theirs).gather(1, ids[0, len(example.prompt) :, None])[:, 0])
    return float(torch.cat(exact).mean()), float(torch.cat(drawn).mean())


def test_kl_of_samples_at_another_temperature_is_that_of_the_policies_at_it(policies, tmp_path, monkeypatch):
    """At temperature 0.3 the policies lie further apart than at 1, where samples of 0.3 would even say that KL is negative."""

    kept, score = [], evaluation.score_branches
    monkeypatch.setattr(
        evaluation, "score_branches", lambda s, examples, *rest: kept.append(examples) or score(s, examples, *rest)
    )
    says = [[{"role": "assistant", "content": word}] for word in ("good", "bad")]
    prompts = [[{"role": "user", "content": f"Hotel {i}?"}] for i in range(16)]
    pairs = pl.DataFrame({"prompt": prompts, "chosen": [says[0]] * 16, "rejected": [says[1]] * 16})
    numbers = evaluate(recipe(temperature=TEMPERATURE), policies, HeldOut(None, None, pairs), tmp_path, Quiet()).metrics
    models = [AutoModelForCausalLM.from_pretrained(policies[name].base).eval() for name in ("aligned", "base")]
    answers = next(examples for examples in kept if len(examples) == 64)
    exact, drawn = divergence(models, answers, TEMPERATURE)
    assert numbers["kl_per_token"] == pytest.approx(drawn, abs=1e-4)
    assert numbers["kl_per_token_low"] < exact < numbers["kl_per_token_high"]
    assert exact > 1.5 * divergence(models, answers, 1.0)[0]
    written = json.loads((tmp_path / "evaluation.json").read_text())
    units = {metric["name"]: metric["unit"] for metric in written["metrics"]}
    assert (written["temperature"], units["kl_per_token"]) == (TEMPERATURE, "nats, answers at temperature 0.3")
    assert units["preference_accuracy"] == units["perplexity_base"] == "texts at temperature 1"


def test_ppos_own_kl_is_at_the_temperature_of_its_rollouts(ppo_job, tiny_llama):
    """The policy is moved from its reference by hand; the curve's number is that of the two softmaxes at temperature 0.5."""
    job, objective, reference = ppo_job(temperature=0.5, rollouts=64, max_new_tokens=6, model=tiny_llama(initializer_range=0.2))
    with reference.swapped():
        before = tiny_llama(initializer_range=0.2)
        before.load_state_dict(job.scorer.model.state_dict(), strict=False)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in job.scorer.model.named_parameters():
            if "value_head" not in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    collected = objective.collect(0)
    exact, drawn = divergence((job.scorer.model, before), collected.scored.examples, 0.5)
    assert collected.numbers["kl"] == pytest.approx(drawn, abs=1e-4)
    assert collected.numbers["kl"] == pytest.approx(exact, rel=0.4)
    assert exact > 1.3 * divergence((job.scorer.model, before), collected.scored.examples, 1.0)[0]
