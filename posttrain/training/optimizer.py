"""The optimizer of a run: AdamW, the loss scale of float16, and the step that leaves no trace when it is not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from posttrain.peft.applied import around_steps
from posttrain.peft.wrap import trainable_state
from posttrain.runtime.distributed import full
from posttrain.scoring.scorer import Scorer
from posttrain.training.decay import by_decay
from schemas.training import Optimization


@dataclass(frozen=True)
class Apart:
    """Trainable tensors that have a learning rate and a clipping of their own."""

    name: str
    """What they are, for the curve."""
    holds: Callable[[str], bool]
    """Whether a tensor, by its name, is one of them."""
    learning_rate: float
    """Peak; it has the shape of the section's."""
    max_grad_norm: float


def make_optimizer(model: nn.Module, spec: Optimization, apart: Sequence[Apart] = ()) -> torch.optim.Optimizer:
    """Fused AdamW over the trainable tensors; `decay.py` says which are decayed.

    Every step brings its own learning rate, of which a group takes `factor`.
    """
    groups = []
    for factor, holds in _parts(spec, apart):
        decayed, others = by_decay(model, holds)
        groups.append({"params": decayed, "weight_decay": spec.weight_decay, "factor": factor})
        groups.append({"params": others, "weight_decay": 0.0, "factor": factor})
    betas = (spec.adam_beta1, spec.adam_beta2)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=betas, eps=spec.adam_epsilon, fused=True)


def _parts(spec: Optimization, apart: Sequence[Apart]) -> list[tuple[float, Callable[[str], bool]]]:
    """Shares of the learning rate, and whose they are."""
    rest = [(1.0, lambda name: not any(each.holds(name) for each in apart))]
    return [*rest, *((each.learning_rate / (spec.learning_rate or 1.0), each.holds) for each in apart)]


class Updates:
    """Turns losses into updates of the trainable tensors, which are listed once: a model may hold many more that are frozen."""

    def __init__(self, scorer: Scorer, spec: Optimization, apart: Sequence[Apart] = ()) -> None:
        self.spec, self.model, self.method = spec, scorer.model, around_steps(scorer.model)
        self.optimizer = make_optimizer(scorer.model, spec, apart)
        limits = {"grad_norm": spec.max_grad_norm, **{f"{each.name}_grad_norm": each.max_grad_norm for each in apart}}
        self.own = own = trainable_state(scorer.model)
        parts = _parts(spec, apart)
        self.parameters = list(own.values())
        self.clipped = [
            (name, limit, [tensor for path, tensor in own.items() if holds(path)])
            for (name, limit), (_, holds) in zip(limits.items(), parts, strict=True)
        ]
        self.scaler = torch.amp.GradScaler(scorer.device.type, enabled=scorer.dtype == torch.float16)

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients."""
        self.scaler.scale(loss).backward()

    def leave_out(self, idle: Callable[[str], bool]) -> None:
        """Have the next update not touch the tensors of these names."""
        for name, tensor in self.own.items():
            if idle(name):
                tensor.grad = None

    def take(self, rate: float, loss: Tensor, step: int, steps: int) -> tuple[Mapping[str, Tensor], Tensor]:
        """Update with the accumulated gradients at learning rate `rate`, unless they or the step's `loss` are not finite.

        `step` counts this one, of `steps` in all.

        Returns:
            the norms of the gradients before clipping, and 1 where the step was skipped, all on the device.
        """
        self.scaler.unscale_(self.optimizer)
        if self.method:
            self.method.before_step(self.model)
        norms = {name: full(nn.utils.clip_grad_norm_(tensors, limit)) for name, limit, tensors in self.clipped}
        skipped = (~torch.isfinite(sum(norms.values(), loss))).float()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)  # a checkpoint of an older version has none
        self._step_unless(skipped)
        if self.method and not bool(skipped):
            self.method.after_step(self.model, self.optimizer, step, steps)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        return norms, skipped

    def _step_unless(self, skipped: Tensor) -> None:
        """Fused optimizers read the flag on the device and leave weights and state alone; others have the host wait for it."""
        if getattr(self.optimizer, "_step_supports_amp_scaling", False):
            self.optimizer.found_inf = skipped  # type: ignore[attr-defined]  # as torch's GradScaler sets it
            self.optimizer.step()
        elif not bool(skipped):
            self.optimizer.step()
