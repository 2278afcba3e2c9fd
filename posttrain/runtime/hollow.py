"""Tensors of the CPU that have a shape and no content, and the operations on them: torch's kernels for its meta device.

torch's FakeTensorMode does the same and much more (symbolic shapes, devices that differ, tracing), at many times the cost of an
operation. What it cannot know is where shapes follow from values (a mask that picks rows); integers and truth values are
therefore real here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

CPU, META = torch.device("cpu"), torch.device("meta")
DEVICE: Any = torch.ops.prim.device.default
Dispatched = Callable[..., Any]


class Hollow(Tensor):
    """A tensor that says it is on the CPU, so that all code takes the CPU's way, and holds one of the meta device."""

    inside: Tensor
    """Of the meta device, with the same storage."""
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def data(self) -> Tensor:
        """As of any tensor: without its history."""
        return self.detach()

    @data.setter
    def data(self, new: Tensor) -> None:
        Tensor.data.__set__(self, new)  # type: ignore[attr-defined]
        self.inside = _inner(new)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Dispatched, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return compute(func, args, kwargs or {})


def hollow(inner: Tensor) -> Hollow:
    """The tensor of the CPU that stands for one of the meta device."""
    made: Hollow = Tensor._make_subclass(Hollow, inner, False, dispatch_device=True, device_for_backend_keys=CPU)
    made.inside = inner
    return made


def compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation returns: numbers where it is about integers and truth values alone, else hollow tensors."""
    if func is DEVICE:
        return CPU
    if func is torch.ops.aten.index.Tensor:
        args = (args[0], _positions(args[1]))
    given: list[Tensor] = []
    key = (func, _form(args, given), _form(tuple(kwargs.items()), given))
    if not given:
        return _made(func, args, kwargs)
    if not any(isinstance(tensor, Hollow) or tensor.dtype.is_floating_point for tensor in given) or func in VALUES:
        out = func(*args, **kwargs)
        if not any(tensor.dtype.is_floating_point for tensor in tensors(out)):
            return out
    made = _KNOWN.get(key)
    return made(given) if made else _without_numbers(func, args, kwargs, given, key)


VALUES = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default}
"""Operations that return no tensor; on hollow ones they fail."""
_KNOWN: dict[Any, Callable[[list[Tensor]], Any]] = {}
"""What operations that were seen before make of the tensors given to them; layers are alike, so few are new."""


def _form(tree: Any, given: list[Tensor]) -> Any:
    """All that the form of a result depends on, in one hashable value; appends the tensors in the tree to `given`."""
    if isinstance(tree, Tensor):
        given.append(tree)
        return tree.shape, tree.stride(), tree.dtype
    if isinstance(tree, tuple | list):
        return tuple([_form(part, given) for part in tree])
    return tree.__class__, tree


def _made(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A new tensor: of integers and truth values a real one."""
    if not _takes_device(func):
        return func(*args, **kwargs)
    out = func(*args, **{**kwargs, "device": META})
    return hollow(out) if out.dtype.is_floating_point else func(*args, **kwargs)


def _without_numbers(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Tensor], key: Any) -> Any:
    """The operation on the meta device; where it returns what it was given, as in place, this does too."""
    if torch.Tag.inplace_view in func.tags:
        raise NotImplementedError(f"{func} on a tensor without numbers")
    inner = {id(tensor): _inner(tensor) for tensor in given}
    places = {id(inner[id(tensor)]): place for place, tensor in enumerate(given)}
    kwargs = {name: _mapped(value, lambda tensor: inner[id(tensor)]) for name, value in kwargs.items()}
    if kwargs.get("device") is not None:
        kwargs["device"] = META
    out = _RULES.get(func, func)(*_mapped(args, lambda tensor: inner[id(tensor)]), **kwargs)
    if not _shares(tensors(out), inner.values()):
        _KNOWN[key] = _again(out, places)
    return _mapped(out, lambda tensor: given[places[id(tensor)]] if id(tensor) in places else hollow(tensor))


def _grouped_product(a: Tensor, b: Tensor, offs: Tensor, bias: Tensor | None = None, out_dtype: Any = None) -> Tensor:
    """Products of groups of rows with a matrix each, as of a mixture's experts; `offs` [groups] says where each group ends.

    [T, K] by [groups, K, N] gives [T, N], [groups, M, K] by [K, T] gives [M, T], [M, T] by [T, N] gives [groups, M, N].
    """
    groups = offs.shape if a.dim() == b.dim() else ()
    return a.new_empty(*groups, a.shape[-2], b.shape[-1], dtype=out_dtype or a.dtype)


_RULES: dict[Any, Callable[..., Tensor]] = {torch.ops.aten._grouped_mm.default: _grouped_product}
"""Operations whose own rule for the meta device takes less than they do: bfloat16 alone."""


def _again(out: Any, places: dict[int, int]) -> Callable[[list[Tensor]], Any]:
    """From the tensors given to an operation to what it returns: some of them, and new ones of the form of those in `out`."""
    if isinstance(out, tuple | list):
        kind, parts = type(out), [_again(part, places) for part in out]
        return lambda given: kind([part(given) for part in parts])
    if not isinstance(out, Tensor):
        return lambda given: out
    if (place := places.get(id(out))) is not None:
        return lambda given: given[place]
    size, stride, dtype = out.size(), out.stride(), out.dtype
    return lambda given: hollow(torch.empty_strided(size, stride, dtype=dtype, device=META))


def _shares(made: Sequence[Tensor], given: Iterable[Tensor]) -> bool:
    """Whether a tensor is a view of another one, without being the same."""
    before = {id(tensor): tensor.untyped_storage()._cdata for tensor in given}
    new = [tensor.untyped_storage()._cdata for tensor in made if id(tensor) not in before]
    return len({*new, *before.values()}) < len(new) + len({*before.values()})


def _inner(tensor: Tensor) -> Tensor:
    """The tensor of the meta device behind a hollow one, or of the form of a real one."""
    if isinstance(tensor, Hollow):
        return tensor.inside
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=META)


def _positions(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The same index without masks: the number of elements that a mask picks is part of the result's shape."""
    found: list[Tensor | None] = []
    for index in indices:
        known = index is not None and index.dtype == torch.bool and not isinstance(index, Hollow)
        found.extend(index.nonzero().unbind(1) if known and index is not None else [index])
    return found


@functools.cache
def _takes_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts: called for every operation, and faster than torch's pytree."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, tuple | list):
        return []
    return [tensor for part in tree for tensor in tensors(part)]


def _mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested tuples and lists with other tensors."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, tuple | list):
        return type(tree)([_mapped(part, change) for part in tree])
    return tree
