"""Mixtures of experts whose config asks for router logits: their auxiliary loss is trained, and they can be sampled from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen3MoeConfig

from posttrain.data.packing import Example
from posttrain.peft.merge import probe
from posttrain.sampling.sampler import Sampling, sample
from posttrain.scoring.reference import score_branches
from posttrain.scoring.scorer import Scorer
from posttrain.training.objectives import LanguageModelling, Preference
from posttrain.training.step_zero import step_0_gate

CPU = torch.device("cpu")
SHAPE = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 48, "num_experts_per_tok": 2, "initializer_range": 0.3, "pad_token_id": 1, "eos_token_id": 0,
         "output_router_logits": True, "router_aux_loss_coef": 0.5}  # fmt: skip
CONFIGS = {
    "mixtral": MixtralConfig(**SHAPE, num_local_experts=4),
    "qwen3 moe": Qwen3MoeConfig(**SHAPE, num_experts=4, moe_intermediate_size=24, head_dim=8),
}


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[request.param])


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_loss_of_sft_is_that_of_transformers_with_its_auxiliary_term(model, layout):
    """Rows whose tokens but the first are all targets, so that transformers' labels say the same. Not in evaluation."""
    rng = np.random.default_rng(0)
    examples = [Example(row[:1], (row[1:],)) for row in (rng.integers(2, 97, n).astype(np.int32) for n in (9, 14, 6))]
    width = max(example.length for example in examples)
    ids, attended = torch.zeros(3, width, dtype=torch.long), torch.zeros(3, width, dtype=torch.long)
    for row, example in enumerate(examples):
        ids[row, : example.length] = torch.from_numpy(np.concatenate([example.prompt, *example.branches]).astype(np.int64))
        attended[row, : example.length] = 1
    expected = model.train()(input_ids=ids, attention_mask=attended, labels=ids.masked_fill(attended == 0, -100))
    objective, scorer = LanguageModelling(examples), Scorer(model, CPU, layout=layout)
    loss, numbers = objective.loss(scorer.train()(examples), range(3))
    units = objective.units(range(3))
    torch.testing.assert_close(loss / units, expected.loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(numbers["aux_loss"] / units, 0.5 * expected.aux_loss, atol=1e-5, rtol=1e-5)
    assert float(expected.aux_loss) > 1
    plain, nothing = objective.loss(scorer.eval()(examples), range(3))
    torch.testing.assert_close(plain / units, expected.loss - 0.5 * expected.aux_loss, atol=1e-5, rtol=1e-5)
    assert nothing == {}


def test_the_router_learns_from_the_auxiliary_loss_alone_where_the_rest_says_nothing(model, random_examples):
    """DPO with a vanishing β: its gradient is the auxiliary loss'. The gate before the first step lets it pass."""
    pairs = random_examples([(5, 4, 7), (9, 3, 2)])
    scorer = Scorer(model, CPU, layout="packed").eval()
    objective = Preference(pairs, score_branches(scorer, pairs, 10**6), beta=1e-9)
    step_0_gate(scorer, objective)
    loss, numbers = objective.loss(scorer.train()(pairs), range(2))
    loss.backward()
    assert float(numbers["aux_loss"]) > 0
    assert float(model.model.layers[0].mlp.gate.weight.grad.abs().max()) > 1e-6


def test_it_can_be_sampled_from_and_keeps_what_its_config_asks_for(model, random_examples):
    """Against greedy decoding from the whole sequence; by our own loop and by transformers'."""
    model.eval()
    prompts = [example.prompt for example in random_examples([(9, 1), (4, 1)])]
    plan = Sampling(max_new_tokens=5, temperature=1e-4, seed=0, samples=1, ends=(0,), pad=1)
    for prompt, (response,) in zip(prompts, sample(model, prompts, plan), strict=True):
        ids = prompt.astype(np.int64).tolist()
        with torch.no_grad():
            for token in response.tolist():
                assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
                ids.append(token)
    assert model.config.output_router_logits


def test_a_merge_compares_logits_and_not_the_auxiliary_loss(model):
    assert probe(model.eval()).shape == (2, 16, 97)
