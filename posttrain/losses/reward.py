"""The reward model's loss (Bradley-Terry) and how its score head starts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: float | Tensor = 0.0) -> Tensor:
    """-log sigmoid(r_c - r_r - m): the negative log-likelihood that chosen wins (arXiv 2203.02155 equation 1).

    Args:
        chosen: [B] rewards of the chosen responses.
        rejected: [B] rewards of the rejected ones.
        margin: m of arXiv 2307.09288 equation 2, the margin by which chosen should win; of all pairs, or [B] of each.

    Returns:
        [B] losses in fp32.
    """
    return -logsigmoid(chosen.float() - rejected.float() - margin)


@torch.no_grad()
def init_score(weight: Tensor) -> None:
    """Fill the weight [1, d] of a new score head from N(0, 1 / (d + 1)), so that rewards start small (arXiv 2009.01325, B.1)."""
    nn.init.normal_(weight, std=(weight.shape[-1] + 1) ** -0.5)
