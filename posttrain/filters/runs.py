"""Records of a file in sorted runs of bounded length: the memory of a task does not grow with its file."""

from __future__ import annotations

from typing import Final

import numpy as np

from posttrain.filters.plan import Plan, save
from posttrain.text.copies import Records

LONGEST: Final = 1 << 20  # records of 16 to 25 bytes that are in memory, beyond those of one batch


class Runs:
    """Takes records batch by batch, and writes each run as a piece.

    Args:
        name: of the pieces.
        by: field of 64 bits that they are sorted by, as `plan.part_of` wants them; ties stay in their order.
    """

    def __init__(self, plan: Plan, name: str, file: int, by: str) -> None:
        self._plan, self._name, self._by = plan, f"{name}-{file:05d}", by
        self._held: list[Records] = []
        self._runs, self.count = 0, 0

    def add(self, records: Records) -> None:
        """Some more."""
        self._held.append(records)
        self.count += len(records)
        if sum(map(len, self._held)) >= LONGEST:
            self._write()

    def end(self) -> None:
        """Write what is left; there is always one run."""
        if self._held or not self._runs:
            self._write()

    def _write(self) -> None:
        found = np.concatenate(self._held)
        self._held = []
        save(self._plan.piece(self._name, self._runs), lambda: found[np.argsort(found[self._by], kind="stable")])
        self._runs += 1
