"""Filter a corpus: annotate each file, find repeated documents, decide and write. Nothing vanishes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from posttrain.data.sources import SourceFile
from posttrain.filters import engines, given
from posttrain.filters.documents import Progress
from posttrain.filters.engines import Engine
from posttrain.filters.kept_before import add_kept
from posttrain.filters.outputs import OUTPUTS, write_documents, write_quarantine
from posttrain.filters.plan import Plan, work_folder
from posttrain.filters.ready import make_ready
from posttrain.filters.repeated_lines import LINES, find_lines
from posttrain.filters.shard import annotate_file
from posttrain.filters.steps import find_repeated
from posttrain.filters.summary import Summary
from posttrain.runtime.arrow_memory import of_system
from posttrain.runtime.trees import remove
from posttrain.runtime.writing import write_atomically
from schemas.errors import Refusal
from schemas.filtering import Filtering

SUMMARY = "summary.json"


def filter_corpus(
    files: list[SourceFile],
    filtering: Filtering,
    holdout: float,
    out: Path,
    on_progress: Progress = lambda documents: None,
    engine: Engine | None = None,
    threads: int = 1,
) -> dict[str, float]:
    """Decide about every document and write kept, rejected and quarantine parquet and summary.json into `out`.

    A run that was killed goes on from its finished pieces, and ends in the same bytes.

    Args:
        holdout: share of the kept documents whose split is "holdout".
        on_progress: called with the number of documents read so far.
        engine: runs the tasks; by default this process.
        threads: of each task.

    Returns:
        Flat metrics: documents_in, documents_kept, documents_rejected, documents_quarantined, documents_train,
        documents_holdout, kept_characters.

    Raises:
        Refusal: when a file has no text column or is cut off, or nothing is kept. Only the quarantine is left then.
    """
    out.mkdir(parents=True, exist_ok=True)
    _remove_results(out)
    plan = _planned(files, filtering, holdout, work_folder(out), threads)
    try:
        metrics = _run(plan, engine or engines.Here(), out, on_progress)
    except Refusal:
        _remove_results(out)
        write_quarantine(plan, out)
        remove(plan.work)
        raise
    remove(plan.work)
    return metrics


def _planned(files: list[SourceFile], filtering: Filtering, holdout: float, work: Path, threads: int) -> Plan:
    """What the tasks are given, once all that the filter reads is there; its folder holds no pieces of another run."""
    given.check(filtering)
    digests = tuple(origin.digest for origin in given.origins(filtering, work / "given"))
    plan = Plan(tuple(files), filtering, holdout, work, threads, digests)
    plan.take_up()
    return plan


def _remove_results(out: Path) -> None:
    """Those of an earlier run, and what a killed one had begun to write."""
    for name in (*(f"{output}.parquet" for output in OUTPUTS), SUMMARY, LINES):
        for path in (out / name, *out.glob(f".{name}.*.tmp")):
            remove(path)


@of_system()
def _run(plan: Plan, engine: Engine, out: Path, on_progress: Progress) -> dict[str, float]:
    make_ready(plan.filtering, plan.work)
    find_lines(plan, engine)
    counts = _annotate(plan, engine, on_progress)
    repeated = find_repeated(plan, counts["documents"], engine)
    summary = Summary(plan.filtering)
    write_documents(plan, repeated, summary, out, threads=plan.threads > 1 or not engine.here)
    write_quarantine(plan, out)
    metrics = summary.finish(counts, out / SUMMARY)
    add_kept(plan, out / "kept.parquet")
    if (plan.work / LINES).exists():  # to decide again, texts have to be what they were
        write_atomically(out / LINES, (plan.work / LINES).read_bytes())
    return metrics


def _annotate(plan: Plan, engine: Engine, on_progress: Progress) -> Counter[str]:
    """Documents, those in quarantine, and the lines that each rule took out, over all files."""
    total, read = Counter[str](), 0

    def progress(documents: int) -> None:
        nonlocal read
        read += documents
        on_progress(read)

    def add(counts: dict[str, Any]) -> None:
        total.update({"documents": counts["documents"], "quarantined": counts["quarantined"], **counts["dropped"]})
        if not engine.here:
            progress(counts["documents"] + counts["quarantined"])

    engine.map(annotate_file, [(plan, number, *([progress] * engine.here)) for number in range(len(plan.files))], add)
    return total
