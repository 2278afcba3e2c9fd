"""The command line. Exit codes: 0 success, 1 a crash, 2 a refused recipe or input, 3 a gate refused promotion.

Signals end `run` and `sweep` with 130 (Ctrl-C) and 143 (SIGTERM).
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows import defaults
from flows.interrupt import watched
from schemas.errors import GateRefused, Refusal

REFUSED, GATE = 2, 3
HOME = ".posttrain"

app = typer.Typer(
    help="From raw text and preference pairs to a registered, aligned language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Recipe = Annotated[Path, typer.Argument(help="Recipe in YAML.", show_default=False)]
Override = Annotated[
    list[str], typer.Option("--set", metavar="FIELD=VALUE", help="Override a field of the recipe; may be repeated.")
]
StoreOption = Annotated[str, typer.Option("--store", help="Folder that keeps results, runs and MLflow's SQLite file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; all else goes to stderr.")]


def console() -> Console:
    """Where people read; stdout belongs to results."""
    return Console(stderr=True)


@contextmanager
def stdout_kept_for_result() -> Iterator[Any]:
    """Send everything that this process or its children print to stderr, and yield a stream on the real stdout."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(real), "w", encoding="utf-8") as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


@app.command()
def run(recipe: Recipe, overrides: Override = [], store: StoreOption = HOME, as_json: Json = False) -> None:  # noqa: B006
    """Run the whole chain in this process; finished stages are reused."""
    from posttrain.runtime.store import Store
    from schemas.load import load_recipe

    loaded, root = load_recipe(recipe, overrides), Store(store).root
    defaults.apply(root)
    with stdout_kept_for_result() as result:
        with watched(root, console()):
            from flows.inline import run_inline

            report, error = run_inline(loaded, root)
        if as_json:
            result.write(report.model_dump_json(indent=1) + "\n")
        else:
            from flows.console import show_report

            show_report(report, Console(file=result))
    if error:
        raise error


@app.command()
def sweep(
    document: Annotated[Path, typer.Argument(metavar="SWEEP", help="Sweep in YAML.", show_default=False)],
    store: StoreOption = HOME,
    as_json: Json = False,
) -> None:
    """Run recipes that differ in one field each and draw reward against KL; nothing is registered."""
    from posttrain.runtime.store import Store
    from schemas.sweep import load_sweep

    (loaded, planned), root = load_sweep(document), Store(store).root
    defaults.apply(root)
    with stdout_kept_for_result() as result:
        with watched(root, console()):
            from flows.sweep import run_sweep

            report = run_sweep(loaded, planned, root)
        if as_json:
            result.write(report.model_dump_json(indent=1) + "\n")
        else:
            from flows.console import show_sweep

            show_sweep(report, Console(file=result))


@app.command()
def check(recipe: Recipe, overrides: Override = [], store: StoreOption = HOME, as_json: Json = False) -> None:  # noqa: B006
    """Validate recipe, inputs and model, and forecast memory and time; trains nothing."""
    from posttrain.runtime.store import Store
    from schemas.load import load_recipe

    loaded, checked = load_recipe(recipe, overrides), Store(store)
    defaults.apply(checked.root)
    gc.set_threshold(100_000)  # importing torch and transformers makes a million objects that stay: not looked through each time
    from flows.check import examine
    from flows.live import TerminalProgress
    from posttrain.runtime.progress import reporting

    with TerminalProgress(console()) as progress, reporting(progress):
        found = examine(loaded, checked)
    show(found, as_json)


@app.command()
def validate(
    data: Annotated[
        str, typer.Argument(help="Preference pairs: a path, glob, URL, or sample://preferences.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for clean and quarantined rows.")] = Path("validated"),
    as_json: Json = False,
) -> None:
    """Check preference pairs against the contract."""
    from posttrain.data.sources import resolve
    from posttrain.data.validate import validate as check_pairs
    from schemas.data import Checks, Data

    check_pairs(resolve(data, "DATA", Path(HOME) / "cache"), None, Checks(), Data.model_fields["holdout"].default, out)
    show({"out": str(out), **json.loads((out / "summary.json").read_text())}, as_json)


@app.command("filter")
def filter_(
    data: Annotated[str, typer.Argument(help="Documents: a path, glob, URL, or sample://corpus.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for kept, rejected and quarantined documents.", show_default=False)],
    preset: Annotated[str, typer.Option("--preset", help="Named set of rules: gopher or none.")] = "gopher",
    as_json: Json = False,
) -> None:
    """Filter a corpus alone."""
    from posttrain.data.sources import resolve
    from posttrain.filters.corpus import filter_corpus
    from schemas.data import PRESETS, Data, Filtering

    if preset not in PRESETS:
        raise Refusal("--preset", repr(preset), ", ".join(sorted(PRESETS)), "choose one of these")
    rules = Filtering.model_validate({"preset": preset})
    files = resolve(data, "DATA", Path(HOME) / "cache")
    numbers = filter_corpus(files, rules, Data.model_fields["holdout"].default, out)
    reasons = json.loads((out / "summary.json").read_text())["reasons"]
    show({"out": str(out), **numbers, "reasons": reasons}, as_json)


@app.command()
def lineage(
    model: Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, or a run id.", show_default=False)],
    store: StoreOption = HOME,
    tracking: Annotated[
        str | None, typer.Option("--tracking-uri", help="MLflow; default is the SQLite file of the store.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Walk a model back to its data, the rejected rows and every stage on the way."""
    from posttrain.runtime.store import Store

    root = Store(store).root
    defaults.apply(root)
    from tasks.lineage import lineage_of

    show(lineage_of(model, root, tracking), as_json)


def show(document: dict[str, Any], as_json: bool) -> None:
    """The same content for programs (JSON) and people (YAML)."""
    import yaml

    text = json.dumps(document, indent=1) if as_json else yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    typer.echo(text.rstrip())


def main() -> None:
    """Entry point: user errors become one message and an exit code; a crash keeps its traceback."""
    sys.path.insert(0, os.getcwd())  # where a recipe's own `module:function` lives
    try:
        app(standalone_mode=True)
    except Refusal as refusal:
        console().print(f"refused  {refusal}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(REFUSED)
    except GateRefused as refusal:
        console().print(str(refusal), style="yellow", highlight=False, markup=False, soft_wrap=True)
        sys.exit(GATE)


if __name__ == "__main__":
    main()
