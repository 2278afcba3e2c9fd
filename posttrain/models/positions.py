"""How many positions a model has, found by observing it: a model with learned positions looks up rows 0, 1, 2 … of a table.

Tables have many names and forms (GPT-J's is a buffer, OPT's begins after two rows of padding, LED has two), and lists of families
are never complete. So a model on the meta device reads a few equal tokens, and every lookup by consecutive indices is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from posttrain.models.blocks import stacks
from posttrain.runtime.fake_tensors import give_tensors, pretending

UNLIMITED = 2**31
TOKENS = 7  # that are read


def positions_of(make: Callable[[], Any]) -> int:
    """Tokens that a model can read: as many as its table of positions has rows for, of several tables the shortest.

    Args:
        make: makes the model; it is called where that takes no memory.

    Returns:
        `UNLIMITED` where positions are computed rather than looked up.
    """
    with torch.device("meta"), _Counting():
        model = make().eval()
    for _, blocks in stacks(model):
        del blocks[1:]  # all read the same positions
    special = {getattr(model.config, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "decoder_start")}
    token = next(token for token in range(TOKENS) if token not in special)  # padding has no position
    with pretending(), torch.no_grad():
        give_tensors(model)
        ids = torch.full((1, TOKENS), token)
        decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
        lookups = _Lookups(model)
        try:
            with lookups:
                model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **decoder)
        except Exception:  # where values decide, as where a mixture routes: what was seen until then counts
            lookups.found += [] if lookups.found else _by_name(model)
    return min(lookups.found, default=UNLIMITED)


def _by_name(model: nn.Module) -> list[int]:
    """Rows of tables that are named as positions, for models such as LED that need values before they look anything up."""
    tables = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    return [table.num_embeddings for name, table in tables.items() if "position" in name and "relative" not in name]


_REAL = (torch.arange, torch.tensor)


class _Counting(TorchFunctionMode):
    """Creates ranges with real values on the CPU, since models slice buffers of positions.

    Constants of the config are real too: LongRoPE divides its factors by frequencies that are computed from a range.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        host = {"device": "cpu"} if func in _REAL else {}
        return func(*args, **(kwargs or {}) | host)


class _Lookups(TorchDispatchMode):
    """Records lookups of consecutive rows of a parameter or buffer, and how many rows follow the first one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tables: list[Tensor] = [*model.parameters(), *model.buffers()]
        self.found: list[int] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if (read := _LOOKUPS.get(func)) is not None:
            self._see(*read(*args))
        out = func(*args, **(kwargs or {}))
        if func in _COPIES and self._is_table(args[0]):
            self.tables.append(out)
        return out

    def _is_table(self, tensor: Tensor) -> bool:
        return any(tensor.untyped_storage()._cdata == table.untyped_storage()._cdata for table in self.tables)

    def _see(self, table: Tensor, dim: int, index: Tensor | None) -> None:
        """Look at one lookup of `index`, whose last dimension counts tokens, along `dim` of `table`."""
        if index is None or isinstance(index, FakeTensor) or not index.dim() or not self._is_table(table):
            return
        rows = index.reshape(-1, index.shape[-1])
        first = int(rows[0, 0])
        if rows.shape[1] >= TOKENS and torch.equal(rows, torch.arange(first, first + rows.shape[1]).expand_as(rows)):
            self.found.append(table.shape[dim] - first)


def _by_gather(table: Tensor, dim: int, index: Tensor, *more: Any) -> tuple[Tensor, int, Tensor]:
    return table, dim, index.movedim(dim, -1)


def _by_index(table: Tensor, indices: Sequence[Tensor | None], *more: Any) -> tuple[Tensor, int, Tensor | None]:
    """Lookups by a single index."""
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    return table, given[0][0], given[0][1] if len(given) == 1 else None


_LOOKUPS: dict[Any, Callable[..., tuple[Tensor, int, Tensor | None]]] = {
    torch.ops.aten.embedding.default: lambda table, index, *more: (table, 0, index),
    torch.ops.aten.index_select.default: lambda table, dim, index: (table, dim, index),
    torch.ops.aten.gather.default: _by_gather,
    torch.ops.aten.index.Tensor: _by_index,
}
"""By operation: the table, its dimension, and the index, from the operation's arguments."""
_COPIES = (torch.ops.aten.repeat.default, torch.ops.aten._to_copy.default, torch.ops.aten.clone.default)
