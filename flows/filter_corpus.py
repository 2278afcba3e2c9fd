"""The flow of a corpus filter by itself: its shards are mapped tasks, and its report lies beside the tables that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.states import Completed, Failed
from prefect.task_runners import ProcessPoolTaskRunner

from flows.deployed.names import REFUSED
from flows.deployed.paths import require_absolute
from flows.deployed.workplace import at_work
from posttrain.filters.engines import cores
from posttrain.runtime import redaction
from posttrain.runtime.progress import current
from posttrain.text.kernels.compiling import cache_of_user, keep_compiled
from schemas.data import Data
from schemas.errors import Refusal
from schemas.filtering import FilterCommand, Filtering
from schemas.load import apply_overrides, validated
from schemas.sources import DataSource

NAME = "filter-corpus"
HOLDOUT = Data.model_fields["holdout"].default
RUNNER: Any = ProcessPoolTaskRunner(max_workers=cores())


@flow(name=NAME, persist_result=False, task_runner=RUNNER)
def filter_corpus(
    data: str,
    out: str,
    preset: str = "gopher",
    overrides: list[str] = [],  # noqa: B006 - Prefect's form reads it
    extractor: Literal["trafilatura", "resiliparse"] = "trafilatura",
    holdout: float = HOLDOUT,
) -> Any:
    """Filter a corpus: decide about every document, and write kept, rejected and quarantined ones and report.html.

    Args:
        data: a path, a glob or a URL, as `data.corpus` of a recipe.
        out: folder for the results, a whole path that the workers can write to.
        preset: named set of rules.
        overrides: fields of a recipe to set, as filtering.rules.words.min=20.
        extractor: what takes the text out of web pages (WARC).
        holdout: share of the kept documents whose split is "holdout".
    """
    with redaction.cleaned_errors():
        try:
            require_absolute(out)
            folder = Path(out)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with at_work(NAME, folder.with_name(f".{folder.name}.running")):
                source = validated(DataSource, {"path": data, "extractor": extractor}, "data")
                document = apply_overrides({"filtering": {"preset": preset}}, overrides)
                numbers = _filter(source, folder, validated(FilterCommand, document, "overrides").filtering, holdout)
        except Refusal as refusal:
            return Failed(name=REFUSED, message=str(refusal))
    _show(folder)
    kept, read = numbers["documents_kept"], numbers["documents_in"]
    return Completed(message=f"{kept:,.0f} of {read:,.0f} documents kept: {folder / 'report.html'}")


def _filter(source: DataSource, out: Path, filtering: Filtering, holdout: float) -> dict[str, float]:
    keep_compiled(cache_of_user())
    from posttrain.data.sources import resolve
    from posttrain.filters.corpus import filter_corpus as run  # its kernels look for what was kept when imported
    from posttrain.filters.estimate import expected_documents
    from posttrain.filters.report import write_report
    from tasks.filtering import PrefectTasks

    files, progress = resolve(source, "data", cache_of_user()), current()
    progress.start("documents", expected_documents(files))
    numbers = run(files, filtering, holdout, out, lambda done: progress.advance(done, {}), PrefectTasks())
    progress.end("documents")
    write_report(out)
    return numbers


def _show(folder: Path) -> None:
    """The reasons as a table in Prefect's pages."""
    reasons = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["reasons"]
    create_table_artifact([{"reason": name, "documents": count} for name, count in reasons.items()], key="filter-reasons")
