"""AdaLoRA's rank budget (arXiv 2303.10512): which singular values of which layers stay, decided while training.

peft keeps the sensitivities in an object beside the model, which no checkpoint holds. Here they are part of the optimizer's
state, so that a resumed run takes the same decisions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from schemas.peft import AdaLoRA

Triplet = tuple[Tensor, Tensor, Tensor]
"""Left vectors P [out, r], singular values Λ [r, 1] and right vectors Q [r, in] of one layer: its update is P Λ Q."""


class RankBudget:
    """What AdaLoRA adds to each optimizer step."""

    def __init__(self, spec: AdaLoRA) -> None:
        self.spec = spec

    @torch.no_grad()
    def before_step(self, model: Any) -> None:
        """Add the gradient of the orthogonality penalty: its weight times the mean of all layers' |Q Qᵀ - I|² and |Pᵀ P - I|²."""
        if not self.spec.orthogonality:
            return
        layers = _triplets(model)
        for left, _, right in layers:
            for rows, gradient in ((right, right.grad), (left.T, None if left.grad is None else left.grad.T)):
                if gradient is not None:
                    excess = rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
                    gradient.add_(excess @ rows, alpha=4 * self.spec.orthogonality / (2 * len(layers)))

    @torch.no_grad()
    def after_step(self, model: Any, optimizer: Optimizer, step: int, steps: int) -> None:
        """Update the sensitivities and, when a decision is due, set the singular values beyond the budget to zero.

        Args:
            step: finished optimizer steps, this one included.
            steps: optimizer steps of the whole stage.
        """
        spec, layers, state = self.spec, _triplets(model), optimizer.state
        begin, end = int(spec.warmup_share * steps), steps - int(spec.final_share * steps)
        if step <= end:
            for parameter in (tensor for layer in layers for tensor in layer):
                _smooth(state[parameter], parameter, spec)
            if step % spec.interval == 0 or step == end:
                scores = [importance(layer, state) for layer in layers]
                for (_, values, _), kept in zip(layers, keep(scores, budget(spec, step, begin, end, len(layers))), strict=True):
                    state[values]["kept"] = kept.to(values.dtype)[:, None]
        if step % spec.interval == 0 or step >= end:
            for _, values, _ in layers:
                values.mul_(state[values].get("kept", 1.0))


def budget(spec: AdaLoRA, step: int, begin: int, end: int, layers: int) -> int:
    """The number of singular values that all layers may keep: equation 8 of the paper, a cubic decay from init_r to target_r."""
    left = 1 - min(1.0, max(0, step - begin) / max(1, end - begin))
    return int(layers * (spec.target_r + (spec.init_r - spec.target_r) * left**3))


def keep(scores: list[Tensor], count: int) -> list[Tensor]:
    """Masks [r] of the layers: true for the `count` highest scores over all layers; ties go to the first."""
    joined = torch.cat(scores)
    kept = torch.zeros_like(joined, dtype=torch.bool)
    kept[joined.argsort(descending=True, stable=True)[:count]] = True
    return list(kept.split([len(score) for score in scores]))


def _smooth(state: dict[str, Any], parameter: Tensor, spec: AdaLoRA) -> None:
    """Equations 9 and 10: running means of the sensitivity |w ∂L/∂w| and of its deviation."""
    if parameter.grad is None:
        return
    now = (parameter * parameter.grad).abs()
    mean = state.setdefault("sensitivity", torch.zeros_like(now))
    spread = state.setdefault("uncertainty", torch.zeros_like(now))
    mean.lerp_(now, 1 - spec.sensitivity_decay)
    spread.lerp_((now - mean).abs(), 1 - spec.uncertainty_decay)


def importance(layer: Triplet, state: Any) -> Tensor:
    """[r]: equation 7, sensitivity times uncertainty of each singular value, plus the means over its two vectors."""
    left, values, right = (state[tensor]["sensitivity"] * state[tensor]["uncertainty"] for tensor in layer)
    score: Tensor = values[:, 0] + left.mean(0) + right.mean(1)
    return score


def _triplets(model: Any) -> list[Triplet]:
    return [(m.lora_B["default"], m.lora_E["default"], m.lora_A["default"]) for m in _layers(model)]


def _layers(model: Any) -> Iterable[Any]:
    return (module for module in model.modules() if hasattr(module, "lora_E"))
