"""Scores of held-out pairs that alignment computed of its reference, by content: evaluation need not compute them again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from posttrain.data.packing import Example

FILE = "reference.safetensors"


def save_known(path: Path, examples: Sequence[Example], scores: Tensor) -> None:
    """Write the summed log-probabilities [examples, branches] of these examples."""
    save_file({"digests": _digests(examples), "scores": scores.contiguous()}, path)


def find_known(path: Path, examples: Sequence[Example]) -> Tensor:
    """[examples, branches] of what `save_known` wrote for the same tokens; NaN where it wrote nothing."""
    saved = load_file(path)
    rows = {bytes(digest): row for digest, row in zip(saved["digests"].numpy(), saved["scores"], strict=True)}
    unknown = torch.full((saved["scores"].shape[1],), math.nan)
    return torch.stack([rows.get(bytes(digest), unknown) for digest in _digests(examples).numpy()])


def _digests(examples: Sequence[Example]) -> Tensor:
    """[examples, 32] SHA-256 of the tokens of each, of where its branches begin, and of which are scored where not all are."""
    parts = [[example.prompt, *example.branches] for example in examples]
    content = [repr([len(part) for part in each]).encode() + np.concatenate(each).astype("<i4").tobytes() for each in parts]
    content = [each if e.trained is None else each + e.trained.tobytes() for each, e in zip(content, examples, strict=True)]
    return torch.tensor([list(hashlib.sha256(each).digest()) for each in content], dtype=torch.uint8)
