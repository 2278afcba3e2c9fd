"""Our side of `python -m bench filter`: one row in a process of its own.

python -m bench.filter.ours FOLDER ROW RESULT [WORKERS]
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from posttrain.text.kernels.compiling import cache_of_user, keep_compiled
from schemas.filter_presets import LINE_PRESETS, PRESETS
from schemas.filtering import Filtering

PAGE = b'{"text": "Instead of a page, which an extractor would have to be started for."}'
CHAIN = ("c4", "fineweb-code")  # rules added to those of `gopher`

ADDED: dict[str, Any] = {"near": {"dedup": {"near": "14x8"}}, "language": {"language": {}}, "personal": {"personal": {}}}


def filtering(row: str) -> Filtering:
    """Gopher, C4 and FineWeb with exact deduplication, and what a row adds."""
    added = {name: bounds.model_dump() for preset in CHAIN for name, bounds in PRESETS[preset] if bounds is not None}
    document: dict[str, Any] = {"preset": "gopher", "rules": added, "lines": LINE_PRESETS["c4"].model_dump()}
    if row.startswith("warc"):
        document = {"preset": "none"}
    return Filtering.model_validate(document | ADDED.get(row, {}))


def main(folder: Path, row: str, result: Path, workers: int) -> None:
    """Run a row, and write seconds, CPU seconds and peak memory."""
    compiled = cache_of_user()
    keep_compiled(compiled)
    from posttrain.data.sources import resolve
    from posttrain.filters import engines
    from posttrain.filters.corpus import filter_corpus
    from posttrain.filters.redecide import redecide
    from schemas.sources import DataSource

    asked, out = filtering(row), folder / f"out-{row}-{workers}"
    extractor = row.removeprefix("warc_") if row.startswith("warc") else "trafilatura"
    pattern = "*.warc.gz" if row.startswith("warc") else "part-*.jsonl"
    files = resolve(DataSource(path=str(folder / pattern), extractor=extractor), "bench", folder)  # type: ignore[arg-type]
    first, warm = folder / "warm-up.jsonl", folder / f"warm-{row}-{workers}"
    with open(files[0].url, "rb") as stream:
        first.write_bytes(PAGE if row.startswith("warc") else b"".join(islice(stream, 50)))
    filter_corpus(resolve(str(first), "bench", folder), asked, 0.1, warm)  # compiles, or loads what was compiled
    redecide(warm, asked, folder / "again")
    shutil.rmtree(out, ignore_errors=True)
    with engines.local(workers, compiled) as engine:
        if workers > 1:
            engine.map(time.sleep, [(0.5,)] * workers)  # so that its processes are there
        numbers, spent = _timed(lambda: filter_corpus(files, asked, 0.1, out, engine=engine))
    if row == "chain":
        _, again = _timed(lambda: redecide(out, asked, folder / "again"))
        spent |= {f"again_{name}": value for name, value in again.items()}
    result.write_text(
        json.dumps(spent | {"peak_mb": _peak(), "documents": numbers["documents_in"], "kept": numbers["documents_kept"]})
    )


def _timed(work: Any) -> tuple[Any, dict[str, float]]:
    clock, cpu = time.monotonic(), _cpu()
    found = work()
    return found, {"seconds": time.monotonic() - clock, "cpu_seconds": _cpu() - cpu}


def _cpu() -> float:
    """Of this process and of the children that have ended; those of a pool are counted by the caller, when this one ends."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 1)
