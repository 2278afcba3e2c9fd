"""The frozen weights under a LoRA in 4 or 8 bits while it trains (QLoRA, arXiv 2305.14314).

int8 is torchao's, which computes with the dequantised weights in training and evaluation alike, on a CPU as on CUDA. That of
bitsandbytes also rounds the activations, on a CPU in evaluation only: policy and reference would differ before the first step.
nf4 is bitsandbytes', on CUDA alone: on a CPU an evaluation packs the weights for a kernel without a backward pass, and the
gradients after it are wrong without an error.
"""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, TorchAoConfig

from posttrain.checkpoints.load import load_base, load_model
from posttrain.models.policy import Policy
from posttrain.peft.base_identity import declare, identity_of
from schemas.errors import Refusal
from schemas.model import Quantization

LIBRARIES = {"nf4": "bitsandbytes", "int8": "torchao"}


def check_library(kind: Quantization) -> None:
    """Refuse a kind whose library is not installed."""
    if importlib.util.find_spec(LIBRARIES[kind]) is None:
        raise Refusal(
            where="model.quantization",
            found=f"{kind}, and the package {LIBRARIES[kind]} is not installed",
            allowed="an installation with the extra quant",
            remedy="pip install 'posttrain[quant]'",
        )


def load_quantized(policy: Policy, device: torch.device, kind: Quantization, compute: torch.dtype) -> nn.Module:
    """The policy with its linear layers but the head quantised; adapters of earlier stages are merged before.

    What is trained on it belongs to the policy as it is: its lineage names those weights, on which the adapter is evaluated,
    merged and exported. They are read in fp32 first, so the peak of loading is not less than without quantisation.

    Args:
        compute: arithmetic of the products with nf4 weights; int8 takes that of its input.

    Raises:
        Refusal: when the policy cannot be loaded.
    """
    exact: Any = load_model(policy, torch.device("cpu"))
    known = identity_of(exact)
    with tempfile.TemporaryDirectory() as scratch:
        if policy.adapters:
            exact.save_pretrained(scratch)
            policy = replace(policy, base=scratch, revision="main", adapters=())
        del exact
        model: nn.Module = load_base(policy, quantization_config=_config(kind, compute), device_map={"": device})
    if kind == "int8":
        _keep_int8_alone(model)
    declare(model, known)
    return model


def _keep_int8_alone(model: nn.Module) -> None:
    """Keep nothing in full but what is not quantised: neither for the backward pass nor, mapped into memory, the whole file."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and hasattr(layer.weight, "qdata"):
            layer.__class__ = Int8Linear
    for parameter in model.parameters():
        if not hasattr(parameter, "qdata"):
            parameter.data = parameter.data.clone()


class Int8Linear(nn.Linear):
    """A frozen linear layer whose weight is an int8 tensor of torchao."""

    def forward(self, input: Tensor) -> Tensor:
        """As of `nn.Linear`."""
        output: Tensor = _Product.apply(input, self)  # type: ignore[no-untyped-call]
        return output


class _Product(torch.autograd.Function):
    """`x Wᵀ + b` that reads W again for the backward pass; torchao keeps each layer's W in full until then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Linear) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.weight.dequantize().to(gradient.dtype), None


def _config(kind: Quantization, compute: torch.dtype) -> BitsAndBytesConfig | TorchAoConfig:
    if kind == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
        )
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())
