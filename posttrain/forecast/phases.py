"""The phases of a stage as far as its memory depends on them: what lives at the largest moment of each."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Arithmetic:
    """Where and in what precision a stage computes."""

    device: torch.device
    dtype: torch.dtype
    processes: int = 1


@dataclass(frozen=True)
class Peak:
    """Bytes that live at the largest moment of one phase of a stage."""

    phase: str
    data: int = 0
    """Rows as text and as tokens."""
    weights: int = 0
    """Parameters and buffers."""
    gradients: int = 0
    """Of all trainable parameters, though at the largest moment some may not be made yet: `activations` is less by those."""
    optimizer: int = 0
    """State of the optimizer."""
    reference: int = 0
    """The copy of the trainable tensors that the reference is."""
    activations: int = 0
    """All that is in no other part."""
    waste: int = 0
    """Freed blocks that the allocator does not use again."""
    passing: int = field(default=0, kw_only=True)
    """No part: what a forward pass with gradients made and freed, in blocks that an allocator may fail to use again."""

    def parts(self) -> dict[str, int]:
        """The parts by name; together they are the peak."""
        return {name: size for name, size in vars(self).items() if name not in ("phase", "passing")}

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts().values())
