"""The DPO family: losses on the implicit rewards of a pair, one function and a table of variants.

A variant compares a score of the chosen completion, c, with one of the rejected completion, r. The score is the log-ratio
log π - log π_ref, or log π alone where a variant needs no reference; it is summed over the completion's tokens, or averaged.
β times the score is the implicit reward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

LEAST_DOUBT = 1e-7  # a completion's mean probability per token counts as at most 1 - 1e-7, so that its odds are finite


@dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters of the family; a variant reads those in its equation."""

    beta: float = 0.1
    """β: scale of the implicit reward, the strength of the pull to the reference; τ of IPO, λ of ORPO."""
    smoothing: float = 0.0
    """ε: assumed share of flipped labels."""
    gamma: float = 0.0
    """Target margin of SimPO, in units of the reward."""


def sigmoid(c: Tensor, r: Tensor, h: Hyperparameters) -> Tensor:
    """DPO, equation 7 of arXiv 2305.18290; with ε conservative DPO: the mean loss when labels are flipped with chance ε."""
    margin = h.beta * (c - r)
    return -(1 - h.smoothing) * logsigmoid(margin) - h.smoothing * logsigmoid(-margin)


def robust(c: Tensor, r: Tensor, h: Hyperparameters) -> Tensor:
    """Robust DPO, arXiv 2403.00409 section 3: the loss whose mean over labels flipped with chance ε is DPO's on the true ones."""
    margin = h.beta * (c - r)
    return -((1 - h.smoothing) * logsigmoid(margin) - h.smoothing * logsigmoid(-margin)) / (1 - 2 * h.smoothing)


def ipo(c: Tensor, r: Tensor, h: Hyperparameters) -> Tensor:
    """IPO, equation 17 of arXiv 2310.12036, with τ = β.

    On log-ratios *per token*. The equation is about a whole completion; summed over tokens, the same target 1 / 2β would ask less
    of every token the longer the pair. TRL averages too and reports that the paper's results were produced that way.
    """
    return (c - r - 1 / (2 * h.beta)) ** 2


def hinge(c: Tensor, r: Tensor, h: Hyperparameters) -> Tensor:
    """SLiC's hinge on the margin, normalised by the reference as in arXiv 2309.06657."""
    return relu(1 - h.beta * (c - r))


def simpo(c: Tensor, r: Tensor, h: Hyperparameters) -> Tensor:
    """SimPO, equation 6 of arXiv 2405.14734: mean log-probabilities without a reference, and a margin that should reach gamma."""
    return -logsigmoid(h.beta * (c - r) - h.gamma)


def orpo(c: Tensor, r: Tensor, h: Hyperparameters) -> Tensor:
    """ORPO, equations 6 and 7 of arXiv 2403.07691, with λ = β: likelihood of chosen, and the ratio of the odds p / (1 - p)."""
    return -c - h.beta * logsigmoid(_log_odds(c) - _log_odds(r))


def _log_odds(logprob: Tensor) -> Tensor:
    """log p / (1 - p)."""
    return logprob - torch.log(-torch.expm1(logprob.clamp(max=-LEAST_DOUBT)))


def apo_zero(c: Tensor, r: Tensor, h: Hyperparameters) -> Tensor:
    """APO-zero, equation 7 of arXiv 2408.06266, plus 1 so that it ends at 0: chosen rises and rejected falls, each by itself."""
    return torch.sigmoid(-h.beta * c) + torch.sigmoid(h.beta * r)


def kto_pair(c: Tensor, r: Tensor, h: Hyperparameters) -> Tensor:
    """KTO, section 4 of arXiv 2402.01306, on pairs: the mean of its loss over both completions, with λ_D = λ_U = 1.

    The reference point z estimates the KL divergence as the mean log-ratio, clamped at 0. The paper takes that mean over a batch.
    Here it is over the two completions of the pair, so that a pair's loss depends on nothing but the pair: not on its neighbours,
    on the batch size, or on how a step is split into micro-batches. The paper lets no gradient through z; here it cancels out,
    since a z above 0 lies half-way between c and r.
    """
    z = relu((c + r) / 2)
    return (torch.sigmoid(-h.beta * (c - z)) + torch.sigmoid(-h.beta * (z - r))) / 2


@dataclass(frozen=True)
class Variant:
    """A loss and the kind of scores that it reads."""

    loss: Callable[[Tensor, Tensor, Hyperparameters], Tensor]
    """From the scores [P] of chosen and rejected to losses [P]."""
    reference: bool = True
    """Whether the scores are log-ratios to the reference."""
    per_token: bool = False
    """Whether the scores are divided by the completion's tokens."""


VARIANTS = {
    "sigmoid": Variant(sigmoid),
    "robust": Variant(robust),
    "ipo": Variant(ipo, per_token=True),
    "hinge": Variant(hinge),
    "sigmoid_norm": Variant(sigmoid, per_token=True),
    "simpo": Variant(simpo, reference=False, per_token=True),
    "orpo": Variant(orpo, reference=False, per_token=True),
    "apo_zero": Variant(apo_zero),
    "kto_pair": Variant(kto_pair),
}


def preference_loss(
    policy: Tensor, reference: Tensor | None, lengths: Tensor, loss: str, h: Hyperparameters, sft_weight: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Losses and implicit rewards of P pairs.

    Args:
        policy: [P, 2] summed log-probabilities of (chosen, rejected) under the policy.
        reference: [P, 2] the same under the reference; not read by a loss that needs none.
        lengths: [P, 2] tokens of the completions.
        loss: a name of `VARIANTS`.
        h: numbers of the loss.
        sft_weight: weight of the negative log-likelihood per token of the chosen completion that is added to the loss
            (RPO, equation 1 of arXiv 2404.19733).

    Returns:
        losses [P], and rewards [P, 2] = β · score, detached. Both fp32.

    Raises:
        ValueError: when the loss needs a reference and there is none.
    """
    policy = policy.float()
    compared = policy
    if VARIANTS[loss].reference:
        if reference is None:
            raise ValueError(f"loss {loss} needs the log-probabilities of a reference")
        compared = policy - reference.float()
    scores = score(compared, lengths, loss)
    losses = VARIANTS[loss].loss(scores[:, 0], scores[:, 1], h)
    if sft_weight:
        losses = losses - sft_weight * policy[:, 0] / lengths[:, 0]
    return losses, h.beta * scores.detach()


def score(sums: Tensor, lengths: Tensor, loss: str) -> Tensor:
    """Log-ratios or log-probabilities [P, 2] in the unit of the loss: summed over the tokens of each completion, or per token."""
    return sums / lengths if VARIANTS[loss].per_token else sums


def at_start(loss: str, h: Hyperparameters) -> float:
    """The loss when policy and reference are equal: ln 2 for `sigmoid`. Only for a loss that has a reference."""
    zero = torch.zeros(1)
    return float(VARIANTS[loss].loss(zero, zero, h))
