"""Live memory of a computation that is not computed: tensors that have a shape and no content, and a count of their bytes.

A model of any size runs in seconds and in no memory, forward, backward and optimizer step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from posttrain.runtime.hollow import CPU, DEVICE, compute, tensors

LARGE_BLOCK = 32 * 2**20  # bytes; glibc takes what is larger from the system and gives it back at once (M_MMAP_THRESHOLD)


class LiveBytes(TorchDispatchMode):
    """Counts the storages that were made while it was entered, until they are freed.

    A storage is counted once, whatever views there are of it. Memory that a kernel takes and returns is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        """Bytes now."""
        self.peak = 0
        """Most bytes since `begin`."""
        self.freed = 0
        """Bytes freed since `begin` in blocks of less than `LARGE_BLOCK`."""
        self._sizes: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled, and what keeps torch's compiler out costs as much as the rest of a call

    def begin(self) -> int:
        """Measure from now on; returns the bytes that live now."""
        self.peak, self.freed = self.live, 0
        return self.live

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = self.computed(func, args, kwargs or {})
        for tensor in tensors(out):
            self._count(tensor.untyped_storage())
        return out

    def computed(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What an operation returns."""
        return func(*args, **kwargs)

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        size = self._sizes.pop(key)
        self.live -= size
        if size < LARGE_BLOCK:
            self.freed += size


class HollowBytes(LiveBytes):
    """The same where no number is computed."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Two thirds of all calls only ask a tensor for its device: they make nothing that would have to be counted."""
        return CPU if func is DEVICE else super().__torch_dispatch__(func, types, args, kwargs)

    def computed(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A hollow tensor where a real one would have numbers."""
        return compute(func, args, kwargs)


@contextmanager
def pretending() -> Iterator[LiveBytes]:
    """Inside, no number is computed; yields the count of bytes."""
    with HollowBytes() as live:
        yield live


def give_tensors(model: nn.Module) -> None:
    """Replace the parameters and buffers of a model of the meta device by tensors of the CPU, which are fake while pretending.

    peft moves adapters to the device of their layer, which fake parameters cannot follow; so models are wrapped on the meta
    device first.
    """
    made: dict[Tensor, Tensor] = {}  # tied ones stay tied
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None and tensor.is_meta:
                    if tensor not in made:
                        made[tensor] = _like(tensor)
                    table[name] = made[tensor]  # type: ignore[assignment]  # a parameter or a buffer, each in its own table
    _number_prompt_tokens(model)


def _number_prompt_tokens(model: nn.Module) -> None:
    """Number the virtual tokens of peft's soft prompts again, which are in a plain dict and so no buffers."""
    for module in model.modules():
        tables: dict[str, Tensor] = vars(module).get("prompt_tokens", {})
        for name, tokens in tables.items():
            tables[name] = torch.arange(len(tokens))  # as peft makes them; integers are real while pretending


def without_draws(model: nn.Module) -> None:
    """Let peft's LyCORIS layers draw nothing: a random number would say whether one takes part, and here no number is known.

    Their `dropout` is left out as well: one number per output of a layer, beside an update of the size of the layer.
    """
    for module in model.modules():
        if hasattr(module, "rank_dropout_scale"):  # of LyCORIS layers alone; importing their class while pretending would be slow
            module.training = False  # not of what is below


def _like(tensor: Tensor) -> Tensor:
    new = torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")
    return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
