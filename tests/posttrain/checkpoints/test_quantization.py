"""LoRA on a base in 8 bits: gradients by hand, training through the stages, and what becomes of the adapter without quantisation.

They need the libraries of the extra `quant`: `make test-quant`.
"""

from __future__ import annotations

import importlib.util
import json

import polars as pl
import pytest
import torch

from posttrain.checkpoints.export import export
from posttrain.checkpoints.load import load_model, load_tokenizer
from posttrain.checkpoints.quantization import check_library, load_quantized
from posttrain.models.policy import Policy
from posttrain.peft.merge import merge
from posttrain.peft.wrap import trainable_state, wrap
from posttrain.training.dpo import dpo
from posttrain.training.loop import CURVE
from posttrain.training.request import StageRequest
from posttrain.training.sft import sft
from schemas.errors import Refusal
from schemas.load import validate_recipe
from schemas.training import DPO, SFT

CPU = torch.device("cpu")
IDS = torch.arange(2, 32).view(2, 15)  # no width of the model divides their number
missing = importlib.util.find_spec("torchao") is None
needs_torchao = pytest.mark.skipif(missing, reason="the extra quant is not installed")


@pytest.mark.skipif(not missing, reason="torchao is installed")
def test_a_missing_library_is_refused():
    with pytest.raises(Refusal, match=r"posttrain\[quant\]"):
        check_library("int8")


def loss_and_gradients(model) -> tuple[float, dict[str, torch.Tensor]]:
    """Of the mean cross-entropy of the next token, by the name of the trained tensor."""
    model.zero_grad()
    logits = model(input_ids=IDS, use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten())
    loss.backward()
    return loss.item(), {name: parameter.grad.clone() for name, parameter in trainable_state(model).items()}


def on_lora(model, spec):
    """The model with the same random LoRA, whatever it is held in."""
    wrapped = wrap(model, spec, 0, "sft.peft")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable_state(wrapped).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return wrapped


@needs_torchao
@pytest.mark.parametrize("changes", [{}, {"use_dora": True}])
def test_gradients_are_those_of_the_weights_that_int8_stands_for(checkpoint, lora, changes):
    """q = round(W / s) with s = max|row| / 127.5 or 127, so |W - s q| <= s; the gradients on W' = s q are plain autograd's.

    In evaluation, too, and after it: another int8 computes otherwise there.
    """
    spec, policy = lora(target_modules="all-linear", **changes), Policy(str(checkpoint))
    held = load_quantized(policy, CPU, "int8", torch.float32)
    plain = load_model(policy, CPU)
    for name, layer in plain.named_modules():
        if name.endswith("_proj"):
            read = held.get_submodule(name).weight.dequantize()
            step = layer.weight.abs().amax(1, keepdim=True) / 127
            assert ((layer.weight - read).abs() <= step).all()
            assert not torch.equal(layer.weight, read)
            layer.weight.data = read
    expected_loss, expected = loss_and_gradients(on_lora(plain, spec))
    model = on_lora(held, spec)
    for training in (True, False, True):
        loss, found = loss_and_gradients(model.train(training))
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-6 + 1e-4 * float(gradient.abs().max())), name


@needs_torchao
def test_no_weight_in_full_is_kept_for_the_backward_pass(checkpoint, lora):
    """torchao alone keeps one of [48, 32] numbers in fp32 for each layer: more than without quantisation."""
    model = wrap(load_quantized(Policy(str(checkpoint)), CPU, "int8", torch.float32), lora(target_modules="all-linear"), 0, "x")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        loss_and_gradients(model.train())
    shapes = {tuple(sorted(tensor.shape)) for tensor in kept}
    assert (4, 32) in shapes  # LoRA's own
    assert not shapes & {(32, 48), (32, 32), (16, 32)}


@needs_torchao
def test_a_quantised_base_takes_a_quarter_of_the_memory_and_is_not_merged_into(checkpoint, lora):
    held = load_quantized(Policy(str(checkpoint)), CPU, "int8", torch.float32)
    weight = held.get_submodule("model.layers.0.mlp.up_proj").weight
    assert weight.qdata.dtype == torch.int8
    assert weight.qdata.numel() == 48 * 32
    with pytest.raises(Refusal, match="the base is quantised"):
        merge(wrap(held, lora(), 0, "sft.peft"))


@pytest.fixture
def request_of(checkpoint, tmp_path):
    """Builds the request of a stage, on the checkpoint and adapters on it."""

    def build(stage: str, *adapters) -> StageRequest:
        document = {
            "name": "tiny",
            "model": {"source": "local", "path": str(checkpoint), "quantization": "int8"},
            "data": {"instructions": "i", "preferences": "p"},
            "sft": {},
            "compute": {"device": "cpu", "dtype": "float32", "log_every": 1},
        }
        out = tmp_path / stage
        out.mkdir()
        return StageRequest(
            stage=stage, train="given by the test", recipe=validate_recipe(document, "test"), policy_digest=stage, out=out,
            policy=Policy(str(checkpoint), adapters=adapters), rows=tmp_path / "rows", cache=tmp_path / "cache",
        )  # fmt: skip

    return build


@pytest.fixture
def rows():
    """Twelve pairs, the last two held out; `completion` for SFT is the chosen answer."""

    def said(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    return pl.DataFrame(
        {
            "source": ["p.jsonl"] * 12,
            "row": range(12),
            "split": ["train"] * 10 + ["holdout"] * 2,
            "prompt": [said("user", f"Rate hotel {i}.") for i in range(12)],
            "chosen": [said("assistant", f"Clean and kind, {i}.") for i in range(12)],
            "rejected": [said("assistant", f"Bad{i}") for i in range(12)],
        }
    )


@needs_torchao
def test_both_stages_train_on_int8_and_their_adapters_are_exported_on_the_exact_base(
    request_of, rows, lora, checkpoint, tmp_path
):
    """SFT's adapter is merged in fp32 before DPO's base is quantised. The export checks itself in a fresh process."""
    peft = lora(target_modules="all-linear")
    instructions = rows.select("source", "row", "split", "prompt", completion="chosen")
    first = sft(request_of("sft"), SFT(epochs=4, batch_size=5, learning_rate=1e-2, peft=peft, validations=2), instructions)
    adapter = tmp_path / "sft" / first.outputs["adapter"]
    losses = [json.loads(line)["loss"] for line in (tmp_path / "sft" / CURVE).read_text().splitlines()[1:]]
    assert losses[-1] < 0.8 * losses[0]
    spec = DPO(algorithm="dpo", epochs=4, batch_size=5, learning_rate=1e-2, peft=peft)
    second = dpo(request_of("align", adapter), spec, rows)
    assert second.metrics["margin"] > 0
    policy = Policy(str(checkpoint), adapters=(adapter, tmp_path / "align" / second.outputs["adapter"]))
    folders = export(policy, tmp_path / "exported")
    assert folders == {"checkpoint": "checkpoint", "adapter": "adapter", "base": "base"}
    assert load_tokenizer(Policy(str(tmp_path / "exported" / "checkpoint"))).eos_token_id == 0


@needs_torchao
def test_the_trained_policy_is_near_the_one_that_is_evaluated(request_of, rows, lora, checkpoint, tmp_path):
    """Training saw rounded weights; on the exact ones the adapter computes almost the same."""
    peft = lora(target_modules="all-linear")
    instructions = rows.select("source", "row", "split", "prompt", completion="chosen")
    sft(request_of("sft"), SFT(epochs=4, batch_size=5, learning_rate=1e-2, peft=peft), instructions)
    policy = Policy(str(checkpoint), adapters=(tmp_path / "sft" / "adapter",))
    with torch.no_grad():
        exact = load_model(policy, CPU).eval()(IDS).logits
        rounded = load_quantized(policy, CPU, "int8", torch.float32).eval()(IDS).logits
        before = load_model(Policy(str(checkpoint)), CPU).eval()(IDS).logits
    assert (exact - rounded).norm() < 0.1 * (exact - before).norm()
