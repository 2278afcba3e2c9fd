"""How a model is trained by several processes: replicated (DDP) or sharded (FSDP2), with torch's own implementations.

Both sum gradients over the processes: losses are divided by the units of the whole step, which every process knows from the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from posttrain.data.packing import micro_batches
from posttrain.models.weight_sharing import shared_copy
from posttrain.peft.wrap import trainable_state
from posttrain.runtime.distributed import full, rank, size
from posttrain.scoring.scorer import Scorer, inner_model


@dataclass(frozen=True)
class Replica:
    """What this process trains."""

    forward: nn.Module
    """Called on examples in a training step."""
    scorer: Scorer
    """Holds the tensors that are trained, and scores without training."""

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Around a forward and backward pass: DDP sums gradients over the processes in the last pass of a step alone."""
        return nullcontext() if last or not isinstance(self.forward, DistributedDataParallel) else self.forward.no_sync()

    def warm_up(self, loss: Callable[[], Tensor]) -> None:
        """Have DDP lay its buckets now, as the first backward pass does, and not in the first step after a start or a resume.

        The order of a sum over three or more processes follows the buckets: a resumed run would differ in the last bit.
        """
        if isinstance(self.forward, DistributedDataParallel):
            (loss() * 0).backward()
            self.forward.zero_grad(set_to_none=True)

    def rest(self) -> None:
        """After scoring without a backward pass, which would do it: let go of what was gathered of a sharded model."""
        if isinstance(self.scorer, FSDPModule):
            self.scorer.reshard()

    @torch.no_grad()
    def hand_over(self, scorer: Scorer) -> None:
        """Put what was trained into `scorer`, from which this was made. Every process must come here."""
        if scorer is self.scorer:
            return
        trained = trainable_state(self.scorer.model)
        for name, parameter in trainable_state(scorer.model).items():
            parameter.data = full(trained[name]).detach().clone()
        scorer.to(scorer.device)


def replicate(scorer: Scorer, strategy: str) -> Replica:
    """What this process trains of a scorer that all processes hold alike."""
    return Replica(scorer, scorer) if size() == 1 else STRATEGIES[strategy](scorer)


def _ddp(scorer: Scorer) -> Replica:
    module = DistributedDataParallel(scorer, broadcast_buffers=False, gradient_as_bucket_view=True)
    module.register_comm_hook(None, _sum)
    return Replica(module, scorer)


def _sum(state, bucket):  # type: ignore[no-untyped-def]  # DDP takes no annotations but its own
    """Sum a bucket of gradients over the processes, where DDP by itself takes the mean."""
    work: Any = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def _fsdp2(scorer: Scorer) -> Replica:
    """A sharded copy: each transformer block is gathered for its own passes, the rest (embeddings, head) for a whole one.

    The tensors of `scorer` itself move to the host, and the trained ones give up their memory until `hand_over`.
    """
    scorer.to("cpu")
    sharing = shared_copy(scorer)
    blocks = set(inner_model(sharing.model)._no_split_modules or ())
    mesh = init_device_mesh(scorer.device.type, (size(),))
    for module in [*(m for m in sharing.modules() if type(m).__name__ in blocks), sharing]:
        sharded: Any = fully_shard(module, mesh=mesh)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
    for parameter in trainable_state(scorer.model).values():
        parameter.data = torch.empty(0)
    return Replica(sharing, sharing)


STRATEGIES: dict[str, Callable[[Scorer], Replica]] = {"ddp": _ddp, "fsdp2": _fsdp2}


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of a step."""

    rows: Sequence[int]
    counts: bool
    """False where a process only keeps pace with the others."""
    last: bool


def passes(rows: Sequence[int], lengths: NDArray[np.int64], budget: int) -> Iterator[Pass]:
    """This process's passes in a step over `rows`, as many as any process has: gradients are summed by all at once.

    A process with fewer micro-batches repeats the shortest row of the step, which does not count.
    """
    shares = [micro_batches(share, lengths, budget) for share in shared(rows, lengths, size())]
    most = max(map(len, shares))
    mine = shares[rank()]
    filler = [min(rows, key=lambda row: (lengths[row], row))]
    for index in range(most):
        yield Pass(mine[index] if index < len(mine) else filler, index < len(mine), index == most - 1)


def shared(rows: Sequence[int], lengths: NDArray[np.int64], processes: int) -> list[list[int]]:
    """Split rows over processes so that each has about as many tokens: the longest first, each to whom has fewest so far."""
    shares: list[list[int]] = [[] for _ in range(processes)]
    tokens = [0] * processes
    for row in sorted(rows, key=lambda r: (-int(lengths[r]), r)):
        least = tokens.index(min(tokens))
        shares[least].append(row)
        tokens[least] += int(lengths[row])
    return shares
