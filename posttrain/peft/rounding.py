"""How far rounding alone can move two orders of the same computation apart."""

from __future__ import annotations

from math import sqrt

import torch
from torch import nn

from posttrain.models import blocks

SAFETY = 5  # factor over the rounding of a typical model; `allowed_difference` says how it was chosen


def allowed_difference(model: nn.Module, dtype: torch.dtype) -> float:
    """Largest relative difference, of the logits or of any module's output, that a different order of the same sums explains.

    A sum of n products is off by about eps32 · sqrt(n) of its size, since the roundings of its additions, which are made in fp32,
    are independent (Higham and Mary, SIAM J. Sci. Comput. 41(5), 2019, theorem 2.4, where the worst case is eps · n); storing it
    rounds once more, by eps of `dtype`. The L blocks of a model add their differences to one stream, independently too:

        allowed = SAFETY · sqrt(L) · (eps + eps32 · sqrt(n))

    An adapter that runs beside its layer rather than merged into it is such another order, and one rounding more per weight.
    SAFETY covers what no formula knows: how much later blocks amplify the difference of an early one. Measured with adapters on
    all linear layers, merged against beside them: at most an eighth of what is allowed in Llamas of width 32 to 512 and depth 2
    to 32 with sharp random weights, a 46th in SmolLM2-135M. One matrix altered by a thousandth of its norm, of twelve in each of
    these models: at least 1.8 times what is allowed, and its module named each time.

    Args:
        model: gives L and n, the longest side of a linear layer but the output head.
        dtype: in which outputs are stored.
    """
    core = blocks.core(model)
    depth = sum(len(stack) for _, stack in blocks.stacks(core)) or 1
    width = max((max(layer.weight.shape) for layer in blocks.all_linear(core).values()), default=1)
    return SAFETY * sqrt(depth) * (torch.finfo(dtype).eps + torch.finfo(torch.float32).eps * sqrt(width))
