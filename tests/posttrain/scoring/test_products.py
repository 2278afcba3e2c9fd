"""Products of half-precision operands against fp64 of the same operands, and where the models' own output layers use them."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration

import posttrain.scoring.products as module
from posttrain.rewards.scorer import RewardScorer, with_score
from posttrain.sampling.sampler import Sampling, sample
from posttrain.scoring.output_head import Head
from posttrain.scoring.products import fp32_linear, fp32_logits, operand, product
from posttrain.scoring.scorer import PLAIN, Scorer
from posttrain.training.ppo.actor_critic import entropy
from schemas.peft import Full

CPU = torch.device("cpu")
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def rounded(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.detach().to(dtype).double()


@HALVES
def test_a_product_is_rounded_no_further_than_its_operands(dtype):
    torch.manual_seed(0)
    left, right = torch.randn(30, 64).to(dtype), torch.randn(64, 40).to(dtype)
    found = product(left, right)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), left.double() @ right.double(), atol=1e-5, rtol=1e-6)


def test_fp16_keeps_what_is_far_below_the_largest_value():
    """1e-9 is 0 in fp16, and 60,000 doubled is infinite: both are multiplied by one power so that they fit."""
    values = torch.tensor([[1e-9, 4e-12], [0.0, 0.0]])
    half, unit = operand(values, torch.float16)
    torch.testing.assert_close(product(half, torch.eye(2).half(), unit), values, rtol=1e-3, atol=0.0)
    large, unit = operand(torch.tensor([[1e9]]), torch.float16)
    assert product(large, torch.ones(1, 1).half(), unit).item() == pytest.approx(1e9, rel=1e-3)


@HALVES
def test_a_linear_layer_in_half_operands_has_fp32_values_and_gradients(monkeypatch, dtype):
    monkeypatch.setattr(module, "operand_type", lambda hidden: dtype)
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 5, 16).requires_grad_(), torch.randn(7, 16).requires_grad_()
    bias, outer = torch.randn(7).requires_grad_(), torch.randn(2, 5, 7)
    found = fp32_linear(hidden, weight, bias)
    h, w = rounded(hidden, dtype), rounded(weight, dtype)
    torch.testing.assert_close(found.double(), h @ w.T + bias.detach().double(), atol=1e-5, rtol=1e-5)
    d_hidden, d_weight, d_bias = torch.autograd.grad((found * outer).sum(), (hidden, weight, bias))
    tolerance = {"atol": 0.1, "rtol": 0.01}  # the gradient itself is rounded to an operand, as autocast does
    torch.testing.assert_close(d_hidden.double(), outer.double() @ w, **tolerance)
    torch.testing.assert_close(d_weight.double(), outer.flatten(0, 1).double().T @ h.flatten(0, 1), **tolerance)
    torch.testing.assert_close(d_bias, outer.sum((0, 1)))


@HALVES
def test_on_cuda_the_same_code_asks_the_product_for_fp32(dtype):
    """Without a GPU only types and shapes can be run."""
    with FakeTensorMode():
        hidden, weight = (torch.randn(n, 8, device="cuda", dtype=dtype) for n in (6, 40))
        logits = product(hidden, weight.T)
        half, unit = operand(logits, dtype)
        assert logits.dtype == product(half, weight, unit).dtype == product(half.T, hidden, unit).dtype == torch.float32


def output_types(layer: torch.nn.Module) -> list[torch.dtype]:
    """Filled with the type of every output of a layer."""
    seen: list[torch.dtype] = []
    layer.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    return seen


@pytest.mark.parametrize("adapted", [False, True])
def test_a_models_logits_are_fp32_within_and_as_before_outside(tiny_llama, adapted):
    model = tiny_llama(tie_word_embeddings=False)
    inner = get_peft_model(model, LoraConfig(target_modules=["lm_head"])).get_base_model() if adapted else model
    ids = torch.tensor([[5, 9, 3]])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        before = inner(ids).logits
        with fp32_logits(inner):
            hidden, within = inner.model(ids)[0], inner(ids).logits
        after = inner(ids).logits
    assert (before.dtype, within.dtype, after.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    torch.testing.assert_close(within, hidden.float() @ model.lm_head.weight.T, atol=1e-6, rtol=1e-5)
    assert torch.equal(before, after)


def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(vocab_size=97, **shape, decoder_start_token_id=0)).eval()


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_the_plain_layout_scores_half_precision_as_the_blocked_head_does(tiny_llama, random_examples, kind):
    """Both have the same hidden states; logits rounded to 8 bits were apart by 1e-2."""
    model = tiny_llama(initializer_range=0.2) if kind == "decoder" else t5()
    examples = random_examples([(6, 5)])
    layout = "padded" if kind == "decoder" else "encoder_decoder"
    plain, blocked = (Scorer(model, CPU, torch.bfloat16, each)(examples).logprobs for each in (PLAIN, layout))
    torch.testing.assert_close(plain, blocked, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_samples_are_drawn_from_logits_that_were_not_rounded(tiny_llama, random_examples, kind):
    model = tiny_llama() if kind == "decoder" else t5()
    seen = output_types(model.lm_head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sample(model, [random_examples([(6, 1)])[0].prompt], Sampling(max_new_tokens=3, temperature=1.0, seed=0, ends=(), pad=0))
    assert set(seen) == {torch.float32}


def test_an_encoders_reward_is_not_rounded(random_examples):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 97}
    model = with_score(BertForSequenceClassification(BertConfig(**shape, num_labels=1)), Full(method="full"), 0, "reward.peft")
    states: list[torch.Tensor] = []
    model.classifier.register_forward_hook(lambda module, args, out: states.append(args[0].float()))
    with torch.no_grad():
        rewards = RewardScorer(model, CPU, torch.bfloat16).eval()(random_examples([(5, 4, 7)])).values
    expected = states[0] @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(rewards, expected[:, 0].detach(), atol=1e-7, rtol=1e-6)


def test_the_entropy_that_is_trained_on_is_not_rounded():
    torch.manual_seed(0)
    hidden, weight = 2 * torch.randn(9, 16), torch.randn(50, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = entropy(hidden, Head(weight))
    expected = torch.distributions.Categorical(logits=hidden.double() @ weight.double().T).entropy()
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
