"""What processes that train together tell each other. In a process that trains alone every function here does nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from posttrain.runtime.interruption import are_owned

T = TypeVar("T")


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group that torch's elastic launcher describes in the environment: gloo for tensors on the CPU, NCCL on CUDA."""
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return dist.get_rank() if size() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes files and reports."""
    return rank() == 0


def from_main(value: T) -> T:
    """The main process's `value`."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def gathered(value: T) -> list[T]:
    """Every process's `value`, by rank."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    dist.all_gather_object(found, value)
    return found


def summed(tensor: Tensor) -> Tensor:
    """`tensor`, in place the sum over the processes."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


def any_process(*flags: bool) -> tuple[bool, ...]:
    """For each flag whether any process raised it; no process goes on before all have come here. Works on the host alone."""
    if size() == 1:
        return flags
    votes = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return tuple(map(bool, votes.tolist()))


def barrier() -> None:
    """Wait until all processes have come here."""
    any_process(False)


def turns(work: Sequence[T]) -> Iterator[tuple[int, bool, Sequence[T]]]:
    """Divide pieces of work: (index of this process's piece, whether it counts, all pieces of this turn).

    All processes take equally many turns, since the forward pass of a sharded model is a collective act: in the last turn a
    process without a piece repeats one that does not count.
    """
    for start in range(0, len(work), size()):
        turn = work[start : start + size()]
        mine = min(rank(), len(turn) - 1)
        yield start + mine, mine == rank(), turn


def full(tensor: Tensor) -> Tensor:
    """A sharded tensor as a whole, which every process must ask for together; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(parameter: Tensor, whole: Tensor) -> Tensor:
    """This process's shard of `whole` where `parameter` is sharded and of its shape, else `whole`."""
    if not isinstance(parameter, DTensor) or parameter.shape != whole.shape:
        return whole
    whole = whole.to(parameter.device)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


@contextmanager
def termination(on_first: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Inside, a signal to end waits for a step to end; yields the function that says whether one came.

    To a process that trains with others that is SIGTERM, as often as it comes. One that trains alone, and whose entry point owns
    its signals, defers Ctrl-C too: the signal acts when this is left, or at once when one comes again.

    Args:
        on_first: called when the first one comes, in a thread: a handler must not wait for a lock that the code under it holds.
    """
    alone, asked = size() == 1, list[int]()
    before = {number: signal.getsignal(number) for number in _deferred(alone)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: object) -> None:
        if asked and alone:
            restore()
            signal.raise_signal(number)
        elif not asked:
            asked.append(number)
            threading.Thread(target=on_first).start()

    for number in before:
        signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        restore()
        if asked and alone:
            signal.raise_signal(asked[0])


def _deferred(alone: bool) -> tuple[signal.Signals, ...]:
    """Signals that wait. Only the main thread may handle any, and one that is ignored stays so."""
    if threading.current_thread() is not threading.main_thread():
        return ()
    if not alone:
        return (signal.SIGTERM,)
    return tuple(n for n in (signal.SIGINT, signal.SIGTERM) if are_owned() and signal.getsignal(n) != signal.SIG_IGN)
