"""The DPO family: losses on the margin between the implicit rewards of a pair.

With `logits = (log π(c) - log π_ref(c)) - (log π(r) - log π_ref(r))`, each loss is a function of `logits` and β.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu


def sigmoid(logits: Tensor, beta: float, smoothing: float) -> Tensor:
    """DPO, equation 7 of arXiv 2305.18290; with smoothing the conservative variant: labels are flipped with that probability."""
    return -(1 - smoothing) * logsigmoid(beta * logits) - smoothing * logsigmoid(-beta * logits)


def ipo(logits: Tensor, beta: float, smoothing: float) -> Tensor:
    """IPO, equation 17 of arXiv 2310.12036, with τ = β."""
    return (logits - 1 / (2 * beta)) ** 2


def hinge(logits: Tensor, beta: float, smoothing: float) -> Tensor:
    """SLiC hinge on the scaled margin, arXiv 2309.06657."""
    return relu(1 - beta * logits)


LOSSES: dict[str, Callable[[Tensor, float, float], Tensor]] = {"sigmoid": sigmoid, "ipo": ipo, "hinge": hinge}


def preference_loss(
    policy: Tensor, reference: Tensor, beta: float, loss: str = "sigmoid", smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Losses and implicit rewards of P pairs.

    Args:
        policy: [P, 2] summed log-probabilities of (chosen, rejected) under the policy.
        reference: [P, 2] the same under the reference.
        beta: strength of the pull to the reference.
        loss: a name of `LOSSES`.
        smoothing: assumed share of flipped labels (sigmoid).

    Returns:
        losses [P], and rewards [P, 2] = β (log π - log π_ref), detached.
    """
    ratios = (policy - reference).float()
    losses = LOSSES[loss](ratios[:, 0] - ratios[:, 1], beta, smoothing)
    return losses, beta * ratios.detach()


def at_start(loss: str, beta: float) -> float:
    """The loss when policy and reference are equal: ln 2 for `sigmoid`."""
    return float(LOSSES[loss](torch.zeros(()), beta, 0.0))
