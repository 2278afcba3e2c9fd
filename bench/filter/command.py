"""`python -m bench filter [--json]`: megabytes of text a second and core, ours and datatrove's, on the same documents."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.filter import corpus
from bench.sides import ROOT, call, refuse_without_peer

DATATROVE = ROOT / ".bench" / "datatrove" / "bin" / "python"
OURS = {
    "chain": "Gopher x2, C4, FineWeb, exact copies",
    "near": "the same with verified MinHash 14x8",
    "language": "the same as the first with languages",
    "personal": "the same as the first with personal data",
}
PEERS = {"chain": ("chain", "patched"), "near": ("near", "near_patched")}
EXTRACTORS = ("warc_trafilatura", "warc_resiliparse")

Numbers = dict[str, Any]


def main(arguments: list[str]) -> None:
    """Write the corpus, run all rows in turn `--rounds` times, and print the best of each."""
    given = _arguments(arguments)
    if given.peer:
        refuse_without_peer(DATATROVE)
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        large, small = Path(scratch) / "large", Path(scratch) / "small"
        size = {
            "large": _written(large, given.megabytes, given.extra),
            "small": _written(small, given.peer_megabytes, given.extra),
        }
        rows = [name for name in OURS if name in given.rows]
        best: dict[str, Numbers] = {}
        for _ in range(given.rounds):
            for row in rows:
                _keep(best, row, _ours(large, row, 1), size["large"])
                for mode in PEERS.get(row, ()) if given.peer else ():
                    _keep(best, f"datatrove_{mode}", _peer(small, mode), size["small"])
            _keep(best, "two_workers", _ours(large, "chain", 2), size["large"])
            for row in EXTRACTORS if given.warc else ():
                _keep(best, row, _crawl(Path(scratch), given.warc, row), 0)
        for megabytes in given.memory:
            best[f"near_{megabytes:g}"] = _of_size(Path(scratch), megabytes)
    result = {"rows": best, "ratios": _ratios(best)}
    print(json.dumps(result, indent=1) if given.json else _table(result))


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench filter")
    parser.add_argument("--megabytes", type=float, default=100, help="of text, for our side")
    parser.add_argument("--peer-megabytes", type=float, default=2, help="of the same text, for datatrove")
    parser.add_argument("--rounds", type=int, default=3, help="the best of which counts")
    parser.add_argument("--rows", nargs="*", choices=OURS, default=list(OURS))
    parser.add_argument("--extra", type=Path, nargs="*", default=[], help="JSON lines that are added to the corpus")
    parser.add_argument("--warc", type=Path, help="a crawl, for pages a second")
    parser.add_argument("--memory", type=float, nargs="*", default=[], help="megabytes of more corpora, for peak memory")
    parser.add_argument("--folder", type=Path, help="where the corpus is written")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="ours alone")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def _written(folder: Path, megabytes: float, extra: list[Path]) -> float:
    """Megabytes of text in a corpus of two files."""
    folder.mkdir()
    size = corpus.write([folder / f"part-{number}.jsonl" for number in (0, 1)], megabytes)
    for number, path in enumerate(extra):
        (folder / f"part-extra-{number}.jsonl").write_bytes(path.read_bytes())
        size += sum(len(json.loads(line)["text"].encode()) for line in path.read_bytes().splitlines()) / 1e6
    return size


def _of_size(scratch: Path, megabytes: float) -> Numbers:
    """The second row on a corpus of another size, once: what counts is its peak memory."""
    folder = scratch / f"memory-{megabytes:g}"
    found, written = dict[str, Numbers](), _written(folder, megabytes, [])
    _keep(found, "near", _ours(folder, "near", 1), written)
    shutil.rmtree(folder)
    return found["near"]


def _ours(folder: Path, row: str, workers: int) -> Numbers:
    return _result([sys.executable, "-m", "bench.filter.ours", str(folder), row], str(workers))


def _peer(folder: Path, mode: str) -> Numbers:
    return _result([str(DATATROVE), "-P", str(ROOT / "bench" / "peers" / "datatrove.py"), str(folder), mode])


def _result(command: list[str], *more: str) -> Numbers:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "result.json"
        call([*command, str(path), *more], 1)
        found: Numbers = json.loads(path.read_text())
        return found


def _crawl(scratch: Path, warc: Path, row: str) -> Numbers:
    folder = scratch / "crawl"
    if not folder.exists():
        folder.mkdir()
        # Many times the pages in one file, since its extractor takes up to a second to start.
        (folder / "crawl.warc.gz").write_bytes(60 * warc.read_bytes())
    found = _ours(folder, row, 1)
    return found | {"pages_per_second": found["documents"] / found["cpu_seconds"]}


def _keep(best: dict[str, Numbers], name: str, found: Numbers, megabytes: float) -> None:
    """Other work on the machine only ever adds time, so the best round is the nearest to the truth, for both sides alike."""
    found |= {
        "megabytes": megabytes,
        "mb_per_cpu_second": megabytes / found["cpu_seconds"],
        "mb_per_second": megabytes / found["seconds"],
    }
    if name not in best or found["cpu_seconds"] < best[name]["cpu_seconds"]:
        best[name] = found


def _ratios(rows: dict[str, Numbers]) -> Numbers:
    found = {
        f"{row}_against_{mode}": rows[row]["mb_per_cpu_second"] / rows[f"datatrove_{mode}"]["mb_per_cpu_second"]
        for row, modes in PEERS.items()
        for mode in modes
        if row in rows and f"datatrove_{mode}" in rows
    }
    if "chain" in rows:
        found["two_workers"] = rows["chain"]["seconds"] / rows["two_workers"]["seconds"]
        found["from_metrics_share"] = rows["chain"]["again_cpu_seconds"] / rows["chain"]["cpu_seconds"]
    return found


def _table(result: Numbers) -> str:
    lines = ["| row | MB/s of CPU | MB/s | peak MB |", "|---|---|---|---|"]
    for name, row in result["rows"].items():
        pages = f"{row['pages_per_second']:.0f} pages" if "pages_per_second" in row else f"{row['mb_per_cpu_second']:.2f}"
        lines.append(f"| {OURS.get(name, name)} | {pages} | {row['mb_per_second']:.2f} | {row.get('peak_mb', 0):.0f} |")
    return "\n".join([*lines, "", *(f"{name}: {value:.2f}" for name, value in result["ratios"].items())])
