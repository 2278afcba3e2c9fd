"""Which texts repeat what evaluation sets ask: runs of 13 words remove a text, the share of words in runs of 8 is reported.

The first is the rule of GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C), which takes shorter runs where an example has
fewer than 13 words but not fewer than 8; the second follows Llama 3 (arXiv 2407.21783, section 5.1.4). Texts are folded, and
punctuation is left aside (`kernels.grams`). An index is 16 bytes for each different run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from posttrain.text.buffers import Buffers, buffers
from posttrain.text.kernels.characters import flags
from posttrain.text.kernels.folding import Folded, fold
from posttrain.text.kernels.grams import beginnings, matches, runs, words
from posttrain.text.kernels.text import Hashes, Places, powers_of_base

LONG: Final = 13
SHORT: Final = 8
_AT_ONCE: Final = 10_000  # examples that are folded together


class Overlap(NamedTuple):
    """What some texts have in common with evaluation sets, each of shape (texts,)."""

    runs: Places
    """How often a run of 13 words, or a whole example of 8 to 12, occurs."""
    example: Places
    """The first example that does, by its place in the index; -1 where none does."""
    share: NDArray[np.float64]
    """Share of the words that lie in a run of 8 that an example has too."""


class Runs(NamedTuple):
    """Runs of words of some lengths, sorted by hash, and the example that each is from."""

    known: Hashes
    example: Places
    buckets: Places
    lengths: Places


class EvaluationIndex:
    """Runs of words of evaluation examples."""

    def __init__(self, names: Sequence[str], long: Runs, short: Runs) -> None:
        self.names, self._long, self._short = list(names), long, short

    @classmethod
    def build(cls, examples: Iterable[tuple[str, str]], long: int = LONG, short: int = SHORT) -> EvaluationIndex:
        """An index of (name, text), where a name says where the example stands, as ``gsm8k.jsonl:17``.

        Examples of fewer than `short` words are left out: they would match by chance.
        """
        names: list[str] = []
        parts: tuple[list[_Part], list[_Part]] = ([], [])
        for some in _pieces(examples):
            for name, own in zip((name for name, _ in some), _words([text for _, text in some]), strict=True):
                if len(own) >= short:
                    for held, length in zip(parts, (min(long, len(own)), short), strict=True):
                        held.append(_Part(_runs(own, length), len(names), length))
                    names.append(name)
        return cls(names, *map(_sorted, parts))

    def save(self, path: Path) -> None:
        """Write the index as a .npz, without pickled objects."""
        parts = {f"{which}_{name}": part for which, held in self._parts() for name, part in held._asdict().items()}
        with path.open("wb") as stream:
            np.savez(stream, names=np.frombuffer("\n".join(self.names).encode(), np.uint8), **parts)

    @classmethod
    def load(cls, path: Path) -> EvaluationIndex:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as held:
            long, short = (Runs(*(held[f"{which}_{name}"] for name in Runs._fields)) for which in ("long", "short"))
            return cls(held["names"].tobytes().decode().split("\n"), long, short)

    def __len__(self) -> int:
        return len(self._long.known)

    def check(self, texts: Buffers) -> Overlap:
        """What each text has in common with the examples."""
        folded = fold(texts.data, texts.offsets)
        counts, example, _ = self._matched(folded, self._long)
        return Overlap(counts, example, self._matched(folded, self._short)[2])

    def runs_in(self, texts: Buffers) -> Places:
        """`Overlap.runs` alone, at half the price."""
        return self._matched(fold(texts.data, texts.offsets), self._long)[0]

    def check_texts(self, texts: Sequence[str]) -> Overlap:
        """The same for strings."""
        return self.check(buffers(pa.array(texts, pa.large_string())))

    def _parts(self) -> tuple[tuple[str, Runs], ...]:
        return ("long", self._long), ("short", self._short)

    def _matched(self, folded: Folded, held: Runs) -> tuple[Places, Places, NDArray[np.float64]]:
        count = len(folded.starts)
        counts, first, covered = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count)
        powers = powers_of_base(int(held.lengths.max(initial=0)) + 1)
        matches(folded.data, folded.starts, folded.ends, flags(), powers, *held[:1], *held[2:], counts, first, covered)
        return counts, np.where(first < 0, -1, held.example[first]) if len(held.example) else first, covered


class _Part(NamedTuple):
    hashes: Hashes
    example: int
    length: int


def _pieces(examples: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    rest = iter(examples)
    while some := list(islice(rest, _AT_ONCE)):
        yield some


def _words(texts: Sequence[str]) -> Iterator[Hashes]:
    """Hashes of the words of each text."""
    folded = fold(*buffers(pa.array(texts, pa.large_string())))
    for start, end in zip(folded.starts.tolist(), folded.ends.tolist(), strict=True):
        found = np.empty(end - start + 1, np.uint64)
        yield found[: words(folded.data, start, end, flags(), found)]


def _runs(own: Hashes, length: int) -> Hashes:
    prefix, found = np.empty(len(own) + 1, np.uint64), np.empty(len(own), np.uint64)
    beginnings(own, len(own), prefix)
    return found[: runs(prefix, powers_of_base(length + 1), len(own), length, found)]


def _sorted(parts: Sequence[_Part]) -> Runs:
    """Each run once, of the first example that has it."""
    hashes = np.concatenate([np.empty(0, np.uint64), *(part.hashes for part in parts)])
    examples = np.concatenate([np.empty(0, np.int64), *(np.full(len(part.hashes), part.example) for part in parts)])
    known, first = np.unique(hashes, return_index=True)
    bits = max(1, len(known).bit_length())
    edges = np.arange(1, 2**bits, dtype=np.uint64) << np.uint64(64 - bits)
    buckets = np.concatenate([[0], np.searchsorted(known, edges), [len(known)]]).astype(np.int64)
    return Runs(known, examples[first], buckets, np.unique(np.array([part.length for part in parts], np.int64)))
