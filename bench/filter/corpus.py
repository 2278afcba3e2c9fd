"""A corpus from what every machine has: documentation, licences and the docstrings of Python's sources, with planted noise."""

from __future__ import annotations

import ast
import gzip
import json
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from posttrain.data import noise
from posttrain.data.reviews import draw_item

TEXTS = ("*.md", "*.rst", "*.txt", "LICENSE*", "copyright", "NEWS.gz")
SHORTEST, LARGEST_FILE = 400, 1 << 20  # characters of a docstring that is prose; bytes of a file
USUAL, SPREAD = 2500, 0.8  # characters of a document: median, and deviation of the logarithm
NOISY = 0.15  # share of documents that are spoiled
POOL = 8 << 20  # characters of paragraphs that documents are drawn from


def places() -> list[Path]:
    """Folders with text, the same on every machine of one image."""
    return [Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("stdlib")), Path("/usr/share/doc")]


def paragraphs(folders: Sequence[Path]) -> list[str]:
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
    for folder in folders:
        for path in sorted({path for pattern in (*TEXTS, "*.py") for path in folder.rglob(pattern)}):
            if path.is_file() and path.stat().st_size <= LARGEST_FILE:
                yield from _docstrings(path) if path.suffix == ".py" else [_read(path)]


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


def write(target: Path, megabytes: float, folders: Sequence[Path] | None = None) -> int:
    """Write JSON lines with so many megabytes of text; returns how many documents they are."""
    pool, written, count = paragraphs(folders or places()), 0, 0
    with target.open("wb") as stream:
        for text in documents(pool):
            stream.write(json.dumps({"id": f"d{count}", "text": text}, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
            written += len(text.encode("utf-8", "replace"))
            count += 1
            if written >= megabytes * 1e6:
                return count
    return count


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), float(sys.argv[2])))
