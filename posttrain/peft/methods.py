"""The table of methods. Hugging Face peft's implementation is used where it has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from schemas.training import LoRA, Peft


def _full(model: nn.Module, spec: Peft) -> nn.Module:
    return model.requires_grad_(True)


def _lora(model: nn.Module, spec: LoRA) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.r,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # peft divides by r; a float is fine
        lora_dropout=spec.dropout,
        target_modules=spec.target_modules if spec.target_modules == "all-linear" else list(spec.target_modules),
        use_rslora=spec.use_rslora,
        use_dora=spec.use_dora,
    )
    return get_peft_model(model, config)


METHODS: dict[str, Callable[[nn.Module, Any], nn.Module]] = {"full": _full, "lora": _lora}
"""By name: wraps a model so that exactly the method's parameters require gradients."""
