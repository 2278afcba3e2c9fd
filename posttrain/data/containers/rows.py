"""What every reader gives, numbered rows and rows that cannot be read, and what it is told: the file and whom to tell."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from schemas.errors import Refusal

LONGEST_VALUE: Final = 200  # characters of a bad row that are kept
KEEP: Final = "data.checks.incomplete: keep"
MOST_NAMES: Final = 30  # that a message shows
LONGEST_NAME: Final = 60  # characters

Row = tuple[int, dict[str, Any]]
"""Number of the row in its file, from 1 (of the line, in JSON lines), and its columns."""


@dataclass(frozen=True)
class Lines:
    """JSON lines that follow each other in a file, which nobody has parsed yet."""

    first: int
    """Number of the first one."""
    raw: list[bytes]
    """Without the line break."""
    rows: Callable[[Iterable[int]], Iterator[Row]]
    """Reads those at some positions in `raw`."""
    side: str | None = None
    """The split that the file's name or the recipe declares for all."""


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read. `reason` is ``code`` or ``code: detail``; `row` is 1-based, a line number in JSONL."""

    file: str
    row: int
    reason: str
    value: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", self.value[:LONGEST_VALUE])

    @property
    def code(self) -> str:
        """The machine-readable part of the reason."""
        return self.reason.split(":", 1)[0]


def shown(names: Collection[str]) -> str:
    """Names for a message, which many or long ones would hide."""
    some = ", ".join(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…" for name in islice(names, MOST_NAMES))
    return some if len(names) <= MOST_NAMES else f"{some}, and {len(names) - MOST_NAMES:,} more"


OnBad = Callable[[BadRow], None]
OnNote = Callable[[str], None]


def unheard(sentence: str) -> None:
    """The `note` of whoever wants none: what costs time only to be told is not looked for."""


class BrokenStream(Exception):
    """A stream ends too early, or its compressed bytes are damaged. `byte` counts from 1, in the file as it is stored."""

    def __init__(self, why: str, byte: int) -> None:
        super().__init__(why)
        self.why, self.byte = why, byte


@dataclass
class Meter:
    """How much was read, so that rows are held by their size and not only by their number."""

    count: int = 0
    """Bytes of rows, as text or as values; whole pieces of a file may be counted before their rows are given."""


@dataclass(frozen=True)
class Reading:
    """How one file is read, and whom to tell."""

    name: str
    """Of the file, in messages."""
    on_bad: OnBad
    """Is given each row that cannot be read."""
    note: OnNote
    """Is given a sentence about the file that a person should see."""
    columns: frozenset[str] | None = None
    """Columns that are asked for; None for all. Parquet and Arrow read no others."""
    known: frozenset[str] = frozenset()
    """Columns that shapes of rows know: what is read of a file with very many."""
    fits: Callable[[dict[str, Any]], bool] | None = None
    """Whether something can be made of a row: tells rows from tables that look alike. None where nobody can say."""
    keep_incomplete: bool = False
    """Whether what stands before a break is read, instead of the file being refused."""
    extractor: str = "trafilatura"
    """What takes the text out of web pages."""
    page_seconds: float = 10.0
    """That a web page may take."""
    whole: bool = False
    """Whether JSON lines are given many at a time, as `Lines`."""
    size: int | None = None
    """Bytes of the file as it is stored, where that is known."""
    meter: Meter = field(default_factory=Meter)
    """Is told how much was read."""

    def bad(self, row: int, reason: str, value: str = "") -> None:
        """Report a row that cannot be read."""
        self.on_bad(BadRow(self.name, row, reason, value))

    def snapped(self, row: int, error: BrokenStream) -> None:
        """As `broken`, for a stream that cannot be decompressed any further; says how much of the file is left unread."""
        left = max(0, (self.size or 0) - error.byte)
        missing = f"the last {left:,} of {self.size:,} bytes and all that should follow" if left else "all that should follow"
        self.broken(row, error.byte, error.why, missing)

    def broken(self, row: int, byte: int, why: str, missing: str = "all that should follow") -> None:
        """Refuse a file that breaks off; or, where the recipe keeps such files, report the row at which it does.

        Raises:
            Refusal: unless incomplete files are kept.
        """
        if not self.keep_incomplete:
            raise Refusal(
                where=f"{self.name}:{row}",
                found=f"content that breaks off at row {row:,}, byte {byte:,}: {why}",
                allowed="a complete file",
                remedy=f"download or write it again; of preferences and instructions, {KEEP} reads the rows before it",
            )
        self.bad(row, f"broken_stream: {why} at byte {byte:,}; this row is missing, and {missing}")
        self.note(f"{self.name} breaks off at row {row:,}, byte {byte:,} ({why}): missing are this row, and {missing}")

    def refuse_repeated(self, names: Sequence[str]) -> None:
        """Refuse a file in which two columns have one name, of which a row could hold only one."""
        if twice := sorted({name for name in names if name and names.count(name) > 1}):
            raise Refusal(
                where=self.name,
                found=f"two columns of the name {', '.join(twice)}",
                allowed="one column of a name",
                remedy="rename or remove one of them",
            )

    def uneven(self, found: str, remedy: str | None = None) -> Refusal:
        """The refusal of a table by columns whose columns do not have the same rows."""
        return Refusal(
            where=self.name,
            found=found,
            allowed="one value of each column for each row",
            remedy=remedy or "write null where a row has none, leave out columns without values, or write one object a row",
        )

    def unreadable(self, kind: str, why: object, remedy: str = "download or write it again") -> Refusal:
        """The refusal of a file that is not what it seems to be."""
        return Refusal(
            where=self.name,
            found=f"content that is not {kind}: {why}",
            allowed=f"a complete file of {kind}",
            remedy=remedy,
        )
