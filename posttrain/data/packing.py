"""Exact packing: many sequences in one row, isolated by a block mask, with a preference pair sharing its prompt.

An example is `prompt · branch 1 · branch 2 …`. Every branch continues the prompt: its positions restart where the prompt ends,
and it sees the prompt and itself, never another branch (prefix sharing, arXiv 2410.20305). Examples are laid into rows first-fit
decreasing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
PADDING = -1
# Work of a token outside attention, in units of the work of one query-key pair: about 6 hidden sizes, since a block's matrices
# hold some 12 H² weights and a pair costs 2 H products.
TOKEN_COST = 6 * 256


@dataclass(frozen=True)
class Example:
    """A prompt of at least one token, and the completions that are scored after it.

    `trained` says which tokens of its branches, one after the other, are targets, where not all are: those of the assistant's
    messages.
    """

    prompt: Tokens
    branches: tuple[Tokens, ...]
    trained: NDArray[np.bool_] | None = None

    @property
    def length(self) -> int:
        """Tokens in the packed layout."""
        return len(self.prompt) + sum(map(len, self.branches))

    @property
    def targets(self) -> int:
        """Tokens that are scored."""
        return sum(self.answer_lengths)

    @property
    def answer_lengths(self) -> list[int]:
        """Tokens of each branch that are scored."""
        if self.trained is None:
            return [len(branch) for branch in self.branches]
        ends = np.cumsum([len(branch) for branch in self.branches])
        return [int(mask.sum()) for mask in np.split(self.trained, ends[:-1])]


def prompt_groups(examples: Sequence[Example]) -> list[int]:
    """For each example a number that those with the same prompt share: what is measured on them is not independent."""
    numbers: dict[bytes, int] = {}
    return [numbers.setdefault(np.asarray(each.prompt, np.int64).tobytes(), len(numbers)) for each in examples]


@dataclass(frozen=True)
class Packed:
    """A batch in the packed layout: R rows of C tokens, N scored tokens, B branches in the order of the examples."""

    input_ids: torch.Tensor  # [R, C]
    position_ids: torch.Tensor  # [R, C]
    owner: torch.Tensor  # [R, C], example that each token belongs to, -1 for padding
    part: torch.Tensor  # [R, C], 0 in the prompt, 1 … in its branches
    at: torch.Tensor  # [N], index into R*C of the hidden state that predicts each target
    targets: torch.Tensor  # [N]
    branch: torch.Tensor  # [N], branch that each target belongs to, 0 … B-1
    branches: int

    def to(self, device: torch.device) -> Packed:
        """The same batch on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return Packed(**moved, branches=self.branches)


def pack(examples: Sequence[Example], width: int | None = None, token_cost: int = TOKEN_COST) -> Packed:
    """Lay examples into rows of `width` tokens, by default of the width that is cheapest for a model of this `token_cost`."""
    lengths = [example.length for example in examples]
    return _place(examples, *(_laid(lengths, width) if width else _cheapest(lengths, token_cost)))


def in_one_row(examples: Sequence[Example], padding: int = 0) -> Packed:
    """Lay examples one after the other, in their order, with `padding` at the end."""
    ends = np.cumsum([example.length for example in examples]).tolist()
    return _place(examples, [0] * len(examples), [0, *ends[:-1]], ends[-1] + padding)


def padding_to_common_width(tokens: int) -> int:
    """What a row lacks to the next of eight widths between two powers of two: an eighth of the row at most.

    A library that makes code for each shape of a product, such as oneDNN, then finds it made, and an allocator finds blocks of
    the same size: without, SmolLM2-135M's training grew by 20 MB with every new width, and by half a gigabyte in 20 passes.
    """
    return -tokens % (1 << max(0, tokens.bit_length() - 4))


def _place(examples: Sequence[Example], rows: Sequence[int], starts: Sequence[int], width: int) -> Packed:
    """Write every example into its row from its start on."""
    shape = (max(rows) + 1, width)
    ids = np.zeros(shape, np.int64)
    positions = np.zeros(shape, np.int64)
    owner = np.full(shape, PADDING, np.int64)
    part = np.zeros(shape, np.int64)
    at, targets, branch = [], [], []
    count = 0
    for index, (example, row, start) in enumerate(zip(examples, rows, starts, strict=True)):
        p, end = len(example.prompt), start + len(example.prompt)
        ids[row, start:end] = example.prompt
        positions[row, start:end] = np.arange(p)
        owner[row, start : start + example.length] = index
        for number, tokens in enumerate(example.branches, 1):
            n = len(tokens)
            ids[row, end : end + n] = tokens
            positions[row, end : end + n] = np.arange(p, p + n)
            part[row, end : end + n] = number
            at.append(row * width + np.r_[start + p - 1, np.arange(end, end + n - 1)][:n])
            targets.append(tokens)
            branch.append(np.full(n, count))
            count, end = count + 1, end + n
    return Packed(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        owner=torch.from_numpy(owner),
        part=torch.from_numpy(part),
        at=torch.from_numpy(np.concatenate(at)),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        branch=torch.from_numpy(np.concatenate(branch)),
        branches=count,
    )


def _cheapest(lengths: Sequence[int], token_cost: int) -> tuple[list[int], list[int], int]:
    """Rows, starts and width of the layout with the least work: R rows of C tokens cost R C (token_cost + C).

    Narrow rows waste no attention on other examples, wide ones waste less on padding. The widths tried are those at which the
    tokens would fill 1, 2, 3 … rows evenly, from the longest example on.
    """
    longest, total = max(lengths), sum(lengths)
    widths = {longest, *(width for n in range(1, len(lengths) + 1) if (width := -(-total // n)) >= longest)}
    return min((_laid(lengths, width) for width in sorted(widths)), key=lambda laid: _cost(laid, token_cost))


def _cost(laid: tuple[list[int], list[int], int], token_cost: int) -> int:
    rows, _, width = laid
    return (max(rows) + 1) * width * (token_cost + width)


def _laid(lengths: Sequence[int], width: int) -> tuple[list[int], list[int], int]:
    width += -width % 8  # vector units like multiples of 8
    return *_first_fit(lengths, width), width


def _first_fit(lengths: Sequence[int], width: int) -> tuple[list[int], list[int]]:
    """Row and start of every example, placing the longest first into the first row with room."""
    rows, starts = [0] * len(lengths), [0] * len(lengths)
    filled: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, used in enumerate(filled) if used + lengths[index] <= width), len(filled))
        if row == len(filled):
            filled.append(0)
        rows[index], starts[index] = row, filled[row]
        filled[row] += lengths[index]
    return rows, starts


def micro_batches(rows: Sequence[int], lengths: NDArray[np.int64], budget: int) -> list[list[int]]:
    """Split the rows of an optimizer step into groups of at most `budget` tokens (a longer row stands alone), longest first.

    Grouping by length keeps padding small; the order depends on nothing but the rows, so a resumed run repeats it.
    """
    groups: list[list[int]] = []
    room = 0
    for row in sorted(rows, key=lambda r: (-int(lengths[r]), r)):
        need = int(lengths[row])
        if not groups or need > room:
            groups.append([])
            room = budget
        groups[-1].append(row)
        room -= need
    return groups
