"""A corpus from what every machine has: documentation, licences and the docstrings of Python's sources, with planted noise."""

from __future__ import annotations

import ast
import gzip
import json
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from random import Random

from posttrain.data import noise
from posttrain.data.reviews import draw_item

TEXTS = ("*.md", "*.rst", "*.txt", "LICENSE*", "copyright", "NEWS.gz")
SHORTEST, LARGEST_FILE = 400, 1 << 20  # characters of a docstring that is prose; bytes of a file
USUAL, SPREAD = 2500, 0.8  # characters of a document: median, and deviation of the logarithm
NOISY = 0.15  # share of documents that are spoiled
POOL = 8 << 20  # characters of paragraphs that documents are drawn from


def places() -> tuple[Path, ...]:
    """Folders with text, the same on every machine of one image."""
    return Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("stdlib")), Path("/usr/share/doc")


@cache
def paragraphs(folders: tuple[Path, ...]) -> list[str]:
    """Blocks of text between empty lines, of the files in their order, each once."""
    found: dict[str, None] = {}
    held = 0
    for text in _texts(folders):
        for block in text.split("\n\n"):
            if block.strip() and block not in found:
                found[block] = None
                held += len(block)
        if held > POOL:
            break
    return list(found)


def _texts(folders: Sequence[Path]) -> Iterator[str]:
    for path in (Path(root) / name for folder in folders for root, name in _files(folder)):
        if path.suffix == ".py":
            yield from _docstrings(path)
        elif any(path.match(pattern) for pattern in TEXTS):
            yield _read(path)


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """Names in a fixed order, without looking at all of them first."""
    for root, inner, names in os.walk(folder):
        inner.sort()
        yield from ((root, name) for name in sorted(names) if _small(os.path.join(root, name)))


def _small(path: str) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) <= LARGEST_FILE


def _read(path: Path) -> str:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return data.decode("utf-8", "replace").replace("\0", "")


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node) or ""
            if len(text) >= SHORTEST:
                yield text


def documents(pool: Sequence[str], seed: int = 0) -> Iterator[str]:
    """Endless documents: runs of neighbouring paragraphs, of which some are spoiled; the same for the same pool and seed."""
    rng = Random(seed)
    before = ""
    while True:
        wanted, at, parts = rng.lognormvariate(0, SPREAD) * USUAL, rng.randrange(len(pool)), []
        while sum(map(len, parts)) < wanted:
            parts.append(pool[(at + len(parts)) % len(pool)])
        text = "\n\n".join(parts)
        yield _spoiled(rng, text, before) if rng.random() < NOISY else text
        before = text


def _spoiled(rng: Random, text: str, before: str) -> str:
    kind = rng.randrange(5)
    if kind < 2 and before:
        return noise.duplicate(rng, before) if kind else noise.near_duplicate(rng, before)
    item = draw_item(rng)
    return (noise.boilerplate, noise.other_language, noise.too_short)[kind - 2](rng, item) if kind >= 2 else text


def write(targets: Sequence[Path], megabytes: float, folders: tuple[Path, ...] = ()) -> float:
    """Write JSON lines with so many megabytes of text, the documents in turn into each file; returns the megabytes."""
    pool, written = paragraphs(folders or places()), 0
    with ExitStack() as stack:
        streams = [stack.enter_context(target.open("wb")) for target in targets]
        for number, text in enumerate(documents(pool)):
            row = json.dumps({"id": f"d{number}", "text": text}, ensure_ascii=False)
            streams[number % len(streams)].write(row.encode("utf-8", "replace") + b"\n")
            written += len(text.encode("utf-8", "replace"))
            if written >= megabytes * 1e6:
                break
    return written / 1e6


if __name__ == "__main__":
    print(write([Path(sys.argv[1])], float(sys.argv[2])))
