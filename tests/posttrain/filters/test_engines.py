"""The same documents are kept whoever runs the tasks, however the corpus is cut, and wherever a run is killed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from posttrain.data.sources import SourceFile
from posttrain.filters import engines, plan, steps
from posttrain.filters.corpus import filter_corpus
from posttrain.filters.engines import Engine
from schemas.errors import Refusal
from schemas.filtering import Dedup, Filtering

ROOT = Path(__file__).resolve().parents[3]
ASKED = Filtering(preset="none", dedup=Dedup(near="14x8"))
RUN = """
import json, sys
from pathlib import Path
from posttrain.data.sources import resolve
from posttrain.filters.corpus import filter_corpus
from schemas.filtering import Filtering
asked = Filtering.model_validate(json.loads(sys.argv[3]))
filter_corpus(resolve(sys.argv[1], "DATA", Path()), asked, 0.1, Path(sys.argv[2]))
"""


def rows() -> list[str]:
    """400 documents of 60 words; every fifth is a copy of an earlier one, every seventh differs from one in a word."""
    rng = random.Random(3)
    texts: list[str] = []
    for at in range(400):
        words = [f"w{rng.randrange(5_000)}" for _ in range(60)]
        if at > 20 and at % 5 == 0:
            words = texts[at - 17].upper().split()
        elif at > 20 and at % 7 == 0:
            words = [*texts[at - 11].split()[:-1], "changed"]
        texts.append(" ".join(words) + f"\nfooter {at % 90}" * (at % 11 == 0))
    return [json.dumps({"id": f"d{at}", "text": text}) for at, text in enumerate(texts)]


def corpus(folder: Path, files: int) -> list[SourceFile]:
    """The same documents in the same order, in so many files of different lengths."""
    folder.mkdir(parents=True)
    lines, cuts = rows(), sorted(random.Random(files).sample(range(1, 400), files - 1))
    for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, 400], strict=True)):
        (folder / f"{number:02d}.jsonl").write_text("\n".join(lines[start:end]) + "\n")
    return [SourceFile(path.name, str(path)) for path in sorted(folder.iterdir())]


def decided(out: Path) -> list[tuple[str, str | None, list[str]]]:
    """Identifier, which kept one it repeats, and reasons of each document."""
    kept = [(name, None, []) for name in pl.read_parquet(out / "kept.parquet")["id"]]
    return sorted(kept + pl.read_parquet(out / "rejected.parquet").select("id", "duplicate_of", "reasons").rows())


def digests(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}


class Backwards:
    """Runs the last task first."""

    here = False

    def map(self, task: Callable, calls: list, on_result: Callable = lambda result: None) -> list:
        return engines.Here().map(task, calls[::-1], on_result)[::-1]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str | None, list[str]]]:
    folder = tmp_path_factory.mktemp("one")
    filter_corpus(corpus(folder / "in", 1), ASKED, 0.1, folder / "out")
    found = decided(folder / "out")
    assert {tuple(each[2]) for each in found} == {(), ("duplicate",), ("near_duplicate",)}
    return found


@pytest.mark.parametrize("files", [1, 2, 5, 12])
@pytest.mark.parametrize("engine", [engines.Here(), Backwards()])
def test_neither_cuts_nor_order_matter(tmp_path, monkeypatch, expected, files: int, engine: Engine) -> None:
    monkeypatch.setattr(plan, "RECORDS_AT_ONCE", 97)  # several parts
    monkeypatch.setattr(steps, "CANDIDATES_AT_ONCE", 9)
    filter_corpus(corpus(tmp_path / "in", files), ASKED, 0.1, tmp_path / "out", engine=engine, threads=2)
    assert decided(tmp_path / "out") == expected


def test_a_pool_of_processes_keeps_the_same_and_writes_the_same_bytes(tmp_path, expected) -> None:
    files = corpus(tmp_path / "in", 4)
    filter_corpus(files, ASKED, 0.1, tmp_path / "here")
    with engines.local(2) as pool:
        told: list[int] = []
        filter_corpus(files, ASKED, 0.1, tmp_path / "pool", told.append, pool)
        Path(files[2].url).write_text('{"text": 1}\n')
        with pytest.raises(Refusal, match="text is int64"):
            filter_corpus(files, ASKED, 0.1, tmp_path / "refused", engine=pool)
    assert decided(tmp_path / "pool") == expected
    assert digests(tmp_path / "pool") == digests(tmp_path / "here")
    assert told == sorted(told)
    assert told[-1] == 400
    assert list((tmp_path / "refused").iterdir()) == [tmp_path / "refused" / "quarantine.parquet"]


HOUSEKEEPERS = {"jemalloc_bg_thd", "polars-ooc-clea"}  # of libraries; they hold no lock while nothing is done
THREADS = """
import os, sys, posttrain.filters.worker
others = set(os.listdir("/proc/self/task")) - {str(os.getpid())}
print(*{open(f"/proc/self/task/{each}/comm").read().strip() for each in others})
print("torch" in sys.modules, "posttrain.filters.steps" in sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists threads")
def test_what_processes_are_forked_off_has_the_tasks_and_no_threads_that_work() -> None:
    """Locks that a thread holds would never be opened in a fork; torch would start some, and take seconds."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True, check=True)
    threads, modules = found.stdout.splitlines()
    assert set(threads.split()) <= HOUSEKEEPERS
    assert modules == "False True"


def everything(folder: Path) -> Filtering:
    """Every step that is asked for by a field: an index and a classifier that are made first, a second pass, a mixture."""
    folder.mkdir(exist_ok=True)
    texts = [json.loads(row)["text"] for row in rows()]
    given = {"good": texts[:60:2], "bad": [text.replace("w1", "v1") for text in texts[1:60:2]], "eval": [texts[5], texts[300]]}
    for name, some in given.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in some))
    return Filtering.model_validate(
        {
            "preset": "none",
            "lines": {"max_repeats": 3},
            "dedup": {"near": "14x8", "url": True},
            "language": {"min_score": 0},
            "personal": {},
            "quality": {"good": str(folder / "good.jsonl"), "bad": str(folder / "bad.jsonl"), "keep": 0.2},
            "decontaminate": {"against": str(folder / "eval.jsonl")},
            "divergence": {"percentile": 98},
            "mixture": {"by": "language", "shares": {"*": 1}, "tail": {"share": 0.2, "shares": {"*": 1}}},
        }
    )


@pytest.fixture(scope="module")
def all_expected(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str | None, list[str]]]:
    folder = tmp_path_factory.mktemp("all")
    filter_corpus(corpus(folder / "in", 1), everything(folder / "given"), 0.1, folder / "out")
    found = decided(folder / "out")
    kinds = {reason.split(" ")[0] for _, _, reasons in found for reason in reasons}
    assert kinds >= {"duplicate", "near_duplicate", "contaminated", "divergence"}
    return found


@pytest.mark.parametrize("files", [3, 7])
def test_neither_cuts_nor_order_matter_to_what_is_told_besides(tmp_path, monkeypatch, all_expected, files: int) -> None:
    monkeypatch.setattr(plan, "RECORDS_AT_ONCE", 97)
    asked = everything(tmp_path / "given")
    filter_corpus(corpus(tmp_path / "in", files), asked, 0.1, tmp_path / "out", engine=Backwards(), threads=2)
    assert decided(tmp_path / "out") == all_expected


def test_a_pool_tells_the_same_besides_and_so_does_a_killed_run(tmp_path, all_expected) -> None:
    files, asked = corpus(tmp_path / "in", 4), everything(tmp_path / "given")
    filter_corpus(files, asked, 0.1, tmp_path / "here")
    with engines.local(2) as pool:
        filter_corpus(files, asked, 0.1, tmp_path / "pool", engine=pool)
    assert decided(tmp_path / "pool") == all_expected
    assert digests(tmp_path / "pool") == digests(tmp_path / "here")
    for piece in ("evaluation.npz", "done-00001.json", "divergence-00002.npy", "exact-00000.npy"):
        out = tmp_path / piece
        start_and_kill(tmp_path / "in", out, out / ".checkpoint" / piece, asked)
        filter_corpus(files, asked, 0.1, out)
        assert digests(out) == digests(tmp_path / "here")


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_the_extra_is_named(tmp_path) -> None:
    with pytest.raises(Refusal, match=r"posttrain\[ray\]"), engines.ray(None):
        pass


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path) -> None:
    """Killed when the first, the middle and the last pieces appear; what is there then is no result, and is not made again."""
    files = corpus(tmp_path / "in", 6)
    filter_corpus(files, ASKED, 0.1, tmp_path / "whole")
    for number, piece in enumerate(["documents-00000.arrow", "done-00003.json", "near-00000.npy"]):
        out = tmp_path / f"killed{number}"
        start_and_kill(tmp_path / "in", out, out / ".checkpoint" / piece)
        assert not {path.name for path in out.iterdir()} & {"kept.parquet", "rejected.parquet", "summary.json"}
        finished = {path: path.stat().st_mtime_ns for path in (out / ".checkpoint").glob("d*.*")}
        assert finished
        filter_corpus(files, ASKED, 0.1, out)
        assert digests(out) == digests(tmp_path / "whole")


def start_and_kill(data: Path, out: Path, piece: Path, asked: Filtering = ASKED) -> None:
    """Kill a run as soon as a piece is there; one that ends before is started again."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(5):
        told = json.dumps(asked.model_dump(mode="json", exclude_unset=True))
        process = subprocess.Popen([sys.executable, "-c", RUN, str(data), str(out), told], env=environment)
        while process.poll() is None and not piece.exists():
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not (out / "summary.json").exists() and piece.exists():
            return
    pytest.fail("every run ended before it was killed")


def test_pieces_of_another_run_are_not_taken_up(tmp_path) -> None:
    """The same folder, after the file or the rules have changed."""
    (file,) = corpus(tmp_path / "in", 1)
    out, piece = tmp_path / "out", tmp_path / "out" / ".checkpoint" / "done-00000.json"
    start_and_kill(tmp_path / "in", out, piece)
    (out / ".kept.parquet.0123456789abcdef.tmp").write_text("begun")  # killed while it wrote
    with Path(file.url).open("a") as stream:
        stream.write('{"id": "new", "text": "one more"}\n')
    assert filter_corpus([file], ASKED, 0.1, out)["documents_in"] == 401
    assert {path.name for path in out.iterdir()} == {"kept.parquet", "rejected.parquet", "quarantine.parquet", "summary.json"}
