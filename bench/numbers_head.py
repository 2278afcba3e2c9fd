"""How far log-probabilities of half-precision operands are from fp64, by vocabulary: ours, and what autocast gives a model.

The hidden states make half of the targets nearly certain, as a trained model's are; there a small error is a large one of 1 - p.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from posttrain.scoring.output_head import Head, token_logprobs

VOCABULARIES = (8_192, 49_152, 128_256)
TOKENS, HIDDEN = 64, 256


def table(vocabularies: tuple[int, ...] = VOCABULARIES) -> list[dict[str, Any]]:
    """Errors of log p against fp64 of the same operands.

    Mean and largest absolute error, and the share of targets whose log p is above 0. `ours` is the head on this device,
    `fp32 logits` is `log_softmax` of a product in fp32, `transformers` of the logits that autocast rounds.
    """
    return [row for vocabulary in vocabularies for dtype in (torch.bfloat16, torch.float16) for row in _rows(vocabulary, dtype)]


def _rows(vocabulary: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weight = (torch.randn(vocabulary, HIDDEN, device=device) * HIDDEN**-0.5).to(dtype)
    targets = torch.randint(0, vocabulary, (TOKENS,), device=device)
    hidden = 2 * torch.randn(TOKENS, HIDDEN, device=device)
    hidden[::2] += 16 * weight[targets[::2]].float()
    hidden = hidden.to(dtype)
    with torch.autocast(device.type, dtype=dtype):
        ours, _ = token_logprobs(hidden, Head(weight), targets)
    logits = {"fp32 logits": hidden.float() @ weight.float().T, "transformers": (hidden @ weight.T).float()}
    sides = {"ours": ours, **{name: _at(each.log_softmax(-1), targets) for name, each in logits.items()}}
    exact = _at((hidden.double() @ weight.double().T).log_softmax(-1), targets)
    return [
        {"vocabulary": vocabulary, "arithmetic": str(dtype)[6:], "head": name, **_errors(each, exact)}
        for name, each in sides.items()
    ]


def _at(logprobs: Tensor, targets: Tensor) -> Tensor:
    return logprobs.gather(1, targets[:, None])[:, 0]


def _errors(found: Tensor, exact: Tensor) -> dict[str, float]:
    difference, certain = (found.double() - exact).abs(), exact > -0.105  # p > 0.9
    return {
        "mean error": float(difference.mean()),
        "largest error": float(difference.max()),
        "mean error where p > 0.9": float(difference[certain].mean()),
        "share above 0": float((found > 0).double().mean()),
    }
