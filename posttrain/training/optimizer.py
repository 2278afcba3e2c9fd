"""The optimizer of a run: AdamW, the loss scale of float16, and the step that leaves no trace when it is not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from posttrain.peft.applied import around_steps
from posttrain.peft.wrap import trainable_state
from posttrain.runtime.distributed import full
from posttrain.scoring.scorer import Scorer
from posttrain.training.decay import by_decay
from schemas.training import Optimization


def make_optimizer(model: nn.Module, spec: Optimization) -> torch.optim.Optimizer:
    """Fused AdamW over the trainable tensors; `decay.py` says which are decayed. Every step brings its own learning rate."""
    decayed, others = by_decay(model)
    groups = [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (spec.adam_beta1, spec.adam_beta2)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=betas, fused=True)


class Updates:
    """Turns losses into updates of the trainable tensors, which are listed once: a model may hold many more that are frozen."""

    def __init__(self, scorer: Scorer, spec: Optimization) -> None:
        self.spec, self.model, self.method = spec, scorer.model, around_steps(scorer.model)
        self.optimizer = make_optimizer(scorer.model, spec)
        self.parameters = list(trainable_state(scorer.model).values())
        self.scaler = torch.amp.GradScaler(scorer.device.type, enabled=scorer.dtype == torch.float16)

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients."""
        self.scaler.scale(loss).backward()

    def take(self, rate: float, loss: Tensor, step: int, steps: int) -> tuple[Tensor, Tensor]:
        """Update with the accumulated gradients at learning rate `rate`, unless they or the step's `loss` are not finite.

        `step` counts this one, of `steps` in all.

        Returns:
            the norm of the gradient before clipping, and 1 where the step was skipped, both on the device.
        """
        self.scaler.unscale_(self.optimizer)
        if self.method:
            self.method.before_step(self.model)
        norm = full(nn.utils.clip_grad_norm_(self.parameters, self.spec.max_grad_norm))
        skipped = (~torch.isfinite(norm + loss)).float()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._step_unless(skipped)
        if self.method and not bool(skipped):
            self.method.after_step(self.model, self.optimizer, step, steps)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        return norm, skipped

    def _step_unless(self, skipped: Tensor) -> None:
        """Fused optimizers read the flag on the device and leave weights and state alone; others have the host wait for it."""
        if getattr(self.optimizer, "_step_supports_amp_scaling", False):
            self.optimizer.found_inf = skipped  # type: ignore[attr-defined]  # as torch's GradScaler sets it
            self.optimizer.step()
        elif not bool(skipped):
            self.optimizer.step()
