"""LongRoPE and dynamic NTK: a score does not depend on what else is scored, beside it or before it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config

from posttrain.data.packing import Example
from posttrain.models.architectures import longest_sequence
from posttrain.models.positions import UNLIMITED
from posttrain.models.rope import unscaled_up_to
from posttrain.sampling.sampler import Sampling, sample
from posttrain.scoring.layout_choice import choose_layout
from posttrain.scoring.reference import score_branches
from posttrain.scoring.scorer import Scorer

CPU = torch.device("cpu")
SHAPE = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
         "pad_token_id": 1, "bos_token_id": None, "eos_token_id": 0}  # fmt: skip
LONG = {"rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 16,
        "short_factor": [1.0, 1.0, 1.0, 1.0], "long_factor": [1.0, 2.0, 4.0, 8.0]}  # fmt: skip
CONFIGS = {
    "longrope": Phi3Config(**SHAPE, max_position_embeddings=64, original_max_position_embeddings=16, rope_parameters=LONG),
    "dynamic": LlamaConfig(**SHAPE, max_position_embeddings=16,
                           rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}),
}  # fmt: skip
SIZES = [(20, 9, 5), (3, 4, 2), (8, 8, 7), (2, 3, 3)]  # on both sides of the 16 tokens, one pair at them


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[request.param]).eval()


@torch.no_grad()
def alone(model, examples: list[Example]) -> torch.Tensor:
    """Log-probabilities of branches [examples, 2] under a copy of the model that has seen nothing else."""
    found = []
    for example in examples:
        for branch in example.branches:
            ids = torch.from_numpy(np.concatenate([example.prompt, branch]).astype(np.int64))[None]
            logprobs = copy.deepcopy(model)(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
            found.append(logprobs.gather(1, ids[0, 1:, None])[len(example.prompt) - 1 :, 0].sum())
    return torch.stack(found).view(-1, 2)


def test_scores_are_those_of_each_sequence_alone_whatever_is_beside_it(model, random_examples):
    examples = random_examples(SIZES)
    assert unscaled_up_to(model.config) == 16
    scorer = Scorer(model, CPU).eval()
    expected = alone(copy.deepcopy(model), examples)
    choice = choose_layout(scorer, examples)
    choice.apply(scorer)
    with torch.no_grad():
        torch.testing.assert_close(score_branches(scorer, examples, 10**6), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(score_branches(scorer, examples[::-1], 1), expected.flip(0), atol=1e-4, rtol=1e-4)
    assert choice.layout == "packed"  # what is within the length of pretraining
    assert "1 examples" in str(choice)


def test_a_batch_of_them_would_change_the_scores(model, random_examples):
    """Else the test above could not fail."""
    examples = random_examples(SIZES)
    scorer = Scorer(model, CPU, layout="padded").eval()
    scorer.scaled = lambda examples: False
    with torch.no_grad():
        together = scorer(examples).per_branch().view(-1, 2)
    assert (together - alone(copy.deepcopy(model), examples)).abs().max() > 1e-2


def test_responses_do_not_depend_on_the_other_prompts_of_a_batch(model, random_examples):
    """Almost greedy, so that random numbers do not matter."""
    prompts = [example.prompt for example in random_examples(SIZES)]
    plan = Sampling(max_new_tokens=6, temperature=1e-4, seed=0, samples=1, ends=(0,), pad=1)
    together = sample(copy.deepcopy(model), prompts, plan)
    for prompt, (response,) in zip(prompts, together, strict=True):
        ((expected,),) = sample(copy.deepcopy(model), [prompt], plan)
        assert response.tolist() == expected.tolist()


def test_plain_rotary_positions_have_no_such_limit(tiny_llama):
    assert unscaled_up_to(tiny_llama().config) is None


@pytest.mark.parametrize("name", CONFIGS)
def test_scaled_positions_are_computed_and_have_no_end(name):
    """The factors of LongRoPE meet frequencies that come of consecutive numbers while the model is looked at."""
    assert longest_sequence(CONFIGS[name]) == UNLIMITED
