"""`posttrain filter`: a corpus alone."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.commands.shared import HOME, Json, console, show
from flows.live import TerminalProgress
from schemas.data import Data
from schemas.errors import Refusal
from schemas.filter_presets import PRESETS
from schemas.filtering import FilterCommand, Filtering
from schemas.load import apply_overrides, validated
from schemas.sources import DataSource

if TYPE_CHECKING:
    from posttrain.filters.engines import Engine

Override = Annotated[
    list[str],
    typer.Option("--set", metavar="FIELD=VALUE", help="A field of a recipe, as filtering.rules.words.min=20."),
]
Metrics = Annotated[Path | None, typer.Option("--from-metrics", help="Decide again about what was filtered into this folder.")]


def filter_(
    data: Annotated[
        str | None, typer.Argument(help="Documents: a path, glob, URL, or sample://corpus.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for kept, rejected and quarantined documents.")] = Path("filtered"),
    preset: Annotated[str, typer.Option("--preset", help=f"Named set of rules: {', '.join(PRESETS)}.")] = "gopher",
    overrides: Override = [],  # noqa: B006
    from_metrics: Metrics = None,
    extractor: Annotated[
        Literal["trafilatura", "resiliparse"],
        typer.Option("--extractor", help="What takes the text out of web pages (WARC)."),
    ] = "trafilatura",
    engine: Annotated[Literal["local", "ray"], typer.Option("--engine", help="This machine, or a Ray cluster.")] = "local",
    address: Annotated[str | None, typer.Option("--address", help="Of the Ray cluster; none starts one here.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Cores to use; all by default.")] = None,
    as_json: Json = False,
) -> None:
    """Filter a corpus alone."""
    if preset not in PRESETS:
        raise Refusal(where="--preset", found=repr(preset), allowed=", ".join(sorted(PRESETS)), remedy="choose one of these")
    if (data is None) == (from_metrics is None):
        found = "neither DATA nor --from-metrics" if data is None else "DATA and --from-metrics"
        raise Refusal(where="posttrain filter", found=found, allowed="one of them", remedy="name the documents, or a folder")
    document = apply_overrides({"filtering": {"preset": preset}}, overrides)
    filtering = validated(FilterCommand, document, "--set").filtering
    if from_metrics:
        numbers = _again(from_metrics, filtering, out)
    else:
        source = validated(DataSource, {"path": data, "extractor": extractor}, "DATA")
        numbers = _anew(source, filtering, out, engine, address, workers)
    reasons = json.loads((out / "summary.json").read_text())["reasons"]
    show({"out": str(out), **numbers, "reasons": reasons}, as_json)


def _anew(
    source: DataSource, filtering: Filtering, out: Path, engine: Literal["local", "ray"], address: str | None, workers: int | None
) -> dict[str, Any]:
    """Read and decide about everything."""
    from posttrain.filters import engines
    from posttrain.text.kernels.compiling import cache_of_user, keep_compiled

    keep_compiled(compiled := cache_of_user())
    from posttrain.data.sources import resolve

    files = resolve(source, "DATA", Path(HOME) / "cache")
    most = workers or engines.cores()
    processes = engines.local_workers(files, most)
    if engine == "local" and processes > 1:
        engines.start_of_workers()  # which import what they need while this process does
    from posttrain.filters.corpus import filter_corpus  # its kernels look for what was kept when imported
    from posttrain.filters.estimate import expected_documents

    chosen: AbstractContextManager[Engine] = engines.ray(address) if engine == "ray" else engines.local(processes, compiled)
    with TerminalProgress(console()) as progress, chosen as opened:
        progress.start("documents", expected_documents(files))
        holdout = Data.model_fields["holdout"].default
        threads = 1 if engine == "ray" else max(1, most // processes)
        numbers = filter_corpus(files, filtering, holdout, out, lambda done: progress.advance(done, {}), opened, threads)
    from posttrain.filters.report import write_report

    return {"report": str(write_report(out)), **numbers}


def _again(folder: Path, filtering: Filtering, out: Path) -> dict[str, Any]:
    """Decide from the metrics of an earlier run."""
    from posttrain.text.kernels.compiling import cache_of_user, keep_compiled

    keep_compiled(cache_of_user())
    from posttrain.filters.redecide import redecide

    if out.resolve() == folder.resolve():
        remedy = "give a folder of its own by --out"
        raise Refusal(where="--out", found=f"{out}, which --from-metrics reads", allowed="another folder", remedy=remedy)
    return redecide(folder, filtering, out)
