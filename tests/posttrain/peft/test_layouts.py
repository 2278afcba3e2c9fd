"""Every method in the layout that the start-up check chooses for it: scores and gradients are those of the model's own logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from posttrain.data.packing import Example
from posttrain.peft.methods import METHODS
from posttrain.peft.wrap import trainable_state, wrap
from posttrain.sampling.sampler import Sampling, sample
from posttrain.scoring.layout_choice import choose_layout
from posttrain.scoring.scorer import PLAIN, Scorer
from schemas.peft import Peft

CPU = torch.device("cpu")


TOKENS = {"vocab_size": 97, "pad_token_id": 1, "eos_token_id": 0}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**TOKENS, **shape, bos_token_id=None))


def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    return T5ForConditionalGeneration(T5Config(**TOKENS, **shape, decoder_start_token_id=1))


MODELS = {"llama": llama, "t5": t5}


def wrapped(method: str, model: str):
    """The method on a tiny model with its trained parameters moved from their start, so that they have an effect."""
    if (method, model) == ("bitfit", "t5"):
        pytest.skip("T5 has no biases, and BitFit is refused on it")
    made = wrap(MODELS[model](), TypeAdapter(Peft).validate_python({"method": method}), 0, "sft.peft")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable_state(made).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made.eval()


def pairs() -> list[Example]:
    rng = np.random.default_rng(0)
    sizes = [(7, 5, 9), (3, 4, 2), (12, 3, 3)]
    return [Example(rng.integers(2, 97, p).astype(np.int32), tuple(rng.integers(2, 97, n).astype(np.int32) for n in ns))
            for p, *ns in sizes]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_scores_and_gradients_equal_those_of_the_models_own_logits(method, model):
    made = wrapped(method, model)
    scorer = Scorer(made, CPU)
    choice = choose_layout(scorer, pairs())
    choice.apply(scorer)
    expected = (
        "packed"
        if METHODS[method].packing and model == "llama"
        else "encoder_decoder"
        if METHODS[method].packing
        else "soft_prompt"
    )
    assert choice.layout == expected, choice

    def run(layout: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
        made.zero_grad(set_to_none=True)
        sums = Scorer(made, CPU, layout=layout)(pairs()).per_branch()
        (sums * torch.tensor([1.0, -1.0, 0.5, 2.0, 1.0, 1.0])).sum().backward()
        return sums.detach(), [p.grad for p in trainable_state(made).values() if p.grad is not None]

    (ours, grads), (plain, plain_grads) = run(scorer.layout), run(PLAIN)
    torch.testing.assert_close(ours, plain, atol=2e-5, rtol=1e-5)
    for a, b in zip(grads, plain_grads, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5 * max(1.0, float(b.abs().max())), rtol=1e-4)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning", "p_tuning"])
def test_soft_prompts_shape_what_is_sampled(method, model, tokenizer):
    """Near-greedy samples follow the scorer's own most likely tokens: the prompt is there while generating too."""
    made, prompts = wrapped(method, model), [pair.prompt for pair in pairs()]
    plan = Sampling(max_new_tokens=4, temperature=1e-4, seed=0, ends=(tokenizer.eos_token_id,), pad=tokenizer.pad_token_id)
    sampled = sample(made, prompts, plan)
    scores = Scorer(made, CPU)([Example(p, s) for p, s in zip(prompts, sampled, strict=True)], statistics=True)
    assert scores.top1.mean() == 1.0
