"""The tasks that prepare data: validate and filter."""

from __future__ import annotations

from pathlib import Path

from posttrain.pipeline.chain import Chain
from posttrain.runtime import progress
from posttrain.runtime.store import Built
from schemas.data import CONTRACTS
from tasks.check_tables import show_checks
from tasks.stage import stage_task


@stage_task
def validate(chain: Chain, out: Path) -> Built:
    """Check pairs, feedback, conversations and prompts against their contracts; rows that fail are quarantined."""
    from posttrain.data.validate import validate as check
    from posttrain.data.verdict import refuse_empty_splits

    data = chain.recipe.data
    given = {name: chain.sources[name] for name in CONTRACTS if name in chain.sources}
    try:
        metrics = check(given, data.checks, data.holdout, out, chain.evaluation_sets, data.weights)
    finally:
        show_checks(out / "summary.json")
    refuse_empty_splits(metrics)
    return Built(metrics, {name: f"{name}.parquet" for name in (*given, "quarantine")} | {"summary": "summary.json"})


@stage_task
def filter(chain: Chain, out: Path) -> Built:
    """Decide about every document of the corpus; rejected documents keep their reasons."""
    from posttrain.filters import engines
    from posttrain.text.kernels.compiling import cache_of_user, keep_compiled

    keep_compiled(compiled := cache_of_user())
    reporter, files, recipe, cores = progress.current(), chain.sources["corpus"], chain.recipe, engines.cores()
    workers = engines.local_workers(files, cores)
    if workers > 1:
        engines.start_of_workers()  # which import what they need while this process does
    from posttrain.filters.corpus import filter_corpus  # its kernels look for what was kept when imported
    from posttrain.filters.estimate import expected_documents

    reporter.start("filter documents", expected_documents(files))
    with engines.local(workers, compiled) as engine:
        metrics = filter_corpus(
            files,
            recipe.filtering,
            recipe.data.holdout,
            out,
            on_progress=lambda documents: reporter.advance(documents, {}),
            engine=engine,
            threads=max(1, cores // workers),
        )
    reporter.end("filter documents")
    return Built(metrics, {name: f"{name}.parquet" for name in ("kept", "rejected", "quarantine")} | {"summary": "summary.json"})
