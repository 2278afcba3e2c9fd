"""How many pairs a second a core checks: alone, from file to clean table, with every check; and the memory of a large file.

CPU seconds are counted, so that other work on the machine makes them no better. Rows are generated, seeded, and all different.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

SHAPES: Final[dict[str, Callable[[str, str, str], dict[str, Any]]]] = {
    "text": lambda prompt, chosen, rejected: {"prompt": prompt, "chosen": chosen, "rejected": rejected},
    "messages": lambda prompt, chosen, rejected: {
        side: [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        for side, answer in (("chosen", chosen), ("rejected", rejected))
    },
    "transcript": lambda prompt, chosen, rejected: {
        side: f"\n\nHuman: {prompt}\n\nAssistant: {answer}" for side, answer in (("chosen", chosen), ("rejected", rejected))
    },
}
WORDS: Final = 5000  # different ones
POOL: Final = 1 << 20  # words of which texts are runs
EVALUATED: Final = 1000  # questions of 20 words that rows must not repeat
FEW: Final = 100  # rows that are read first: loading the kernels takes as long whatever follows, and is told apart
ROUNDS: Final = 3


def lines(shape: str, words: tuple[int, int]) -> Iterator[str]:
    """Rows without end; a prompt and an answer have so many words, three times the first at most."""
    draw = random.Random(0)
    known = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(WORDS)]
    pool = draw.choices(known, k=POOL)

    def text(count: int, mark: str | None = None) -> str:
        """A run of the pool; with a mark at every fourth word no 5-gram comes in two texts."""
        size = count // 2 + int(draw.random() * (count + 1))
        start = int(draw.random() * (POOL - size))
        run = pool[start : start + size]
        if mark:
            run[3::4] = [mark] * len(run[3::4])
        return " ".join(run).capitalize() + "."

    for at in itertools.count():
        yield json.dumps(SHAPES[shape](f"{text(words[0], f'n{at}')} {at}?", text(words[1]), text(words[1]))) + "\n"


def write_rows(path: Path, shape: str, words: tuple[int, int], rows: int | None, size: int | None) -> None:
    """So many rows, or bytes."""
    written = 0
    with path.open("w", encoding="ascii") as stream:
        for number, line in enumerate(lines(shape, words)):
            if number == rows or (size is not None and written >= size):
                return
            written += stream.write(line)


def whole(path: Path) -> dict[str, float]:
    """From the file to the clean table; in a process of its own, for its peak of memory."""
    return _validated(path, {})


def every_check(path: Path) -> dict[str, float]:
    """The same with what costs most: languages, personal data and secrets, and overlap with an evaluation set."""
    return _validated(path, {"severity": {"language": "warn", "personal": "warn"}, "decontaminate": str(path)})


def _validated(path: Path, asked: dict[str, Any]) -> dict[str, float]:
    from posttrain.data.sources import SourceFile
    from posttrain.data.validate import validate
    from schemas.data import Checks

    with tempfile.TemporaryDirectory(dir=path.parent) as out:
        against = Path(out) / "evaluation.jsonl"
        words = " ".join(f"question{at}" for at in range(EVALUATED * 20)).split()
        against.write_text("".join(json.dumps({"q": " ".join(words[at : at + 20])}) + "\n" for at in range(0, len(words), 20)))
        sets = [SourceFile(against.name, str(against))] if asked else []
        few = Path(out) / "few.jsonl"
        with path.open() as lines, few.open("w") as stream:
            stream.writelines(itertools.islice(lines, FEW))
        found, seconds = dict[str, float](), list[float]()
        for given in (few, path):
            before = time.process_time()
            found = validate({"preferences": [SourceFile(given.name, str(given))]}, Checks(**asked), 0.1, Path(out), sets)
            seconds.append(time.process_time() - before)
    rows = found["preferences_rows_in"]
    assert rows == found["preferences_kept"]
    return {
        "rows": rows,
        "start_seconds": seconds[0],
        "cpu_seconds": seconds[1],
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def checks(path: Path) -> dict[str, float]:
    """The checks of rows alone, on tables that are in memory."""
    from posttrain.data.collect import Collector
    from posttrain.data.kinds import KINDS
    from posttrain.data.passes import Passes
    from posttrain.data.sources import SourceFile

    kind = KINDS["preferences"]
    tables = list(Collector(kind, [SourceFile(path.name, str(path))], False, print, print).tables())
    passes = Passes(kind.checks, [each() for each in kind.across], 0.1, path.parent)
    before = time.process_time()
    for table in tables:
        passes.take(table)
    return {"rows": sum(table.height for table in tables), "cpu_seconds": time.process_time() - before}


def _in_process(work: Callable[[Path], dict[str, float]], path: Path) -> dict[str, float]:
    """With one thread of polars, so that a second of work is a second of one core."""
    os.environ["POLARS_MAX_THREADS"] = "1"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (path,))


def _best(work: Callable[[Path], dict[str, float]], path: Path) -> dict[str, float]:
    """The fastest of some rounds: other work only ever adds time."""
    found = min((_in_process(work, path) for _ in range(ROUNDS)), key=lambda each: each["cpu_seconds"])
    return found | {"rows_per_cpu_second": found["rows"] / found["cpu_seconds"]}


def main(words: list[str]) -> None:
    """`python -m bench validate [--rows N] [--words P A] [--gb SIZE] [--json]`."""
    parser = argparse.ArgumentParser(prog="python -m bench validate", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="of each shape")
    parser.add_argument("--words", type=int, nargs=2, default=(15, 30), help="of a prompt and of an answer, on average")
    parser.add_argument("--gb", type=float, default=0.0, help="also a file of so many 10^9 bytes, for its peak of memory")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(words)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for shape in SHAPES:
            path = Path(folder) / f"{shape}.jsonl"
            write_rows(path, shape, tuple(given.words), given.rows, None)
            found[shape] = {"bytes_per_row": path.stat().st_size / given.rows, "whole": _best(whole, path)}
            found[shape]["row_checks"] = _best(checks, path)
            found[shape]["every_check"] = _best(every_check, path)
        if given.gb:
            path = Path(folder) / "large.jsonl"
            write_rows(path, "text", tuple(given.words), None, int(given.gb * 1e9))
            found["large"] = {"gb": path.stat().st_size / 1e9, **_in_process(whole, path)}
    print(json.dumps(found, indent=1) if given.json else _table(found))


def _table(found: dict[str, Any]) -> str:
    """For people."""
    heads = (f"{head:>14}" for head in ("bytes a row", "rows/s a core", "every check", "checks alone", "start s", "peak GiB"))
    said = ["  ".join([f"{'':10}", *heads])]
    for shape, each in found.items():
        if shape != "large":
            rates = [f"{each[way]['rows_per_cpu_second']:14,.0f}" for way in ("whole", "every_check", "row_checks")]
            rest = [f"{each['whole'][name]:14.2f}" for name in ("start_seconds", "peak_gb")]
            said.append("  ".join([f"{shape:10}", f"{each['bytes_per_row']:14,.0f}", *rates, *rest]))
    if large := found.get("large"):
        said.append(
            f"{large['gb']:.1f} GB, {large['rows']:,.0f} rows: peak {large['peak_gb']:.2f} GiB, {large['cpu_seconds']:.0f} s"
        )
    return "\n".join(said)
