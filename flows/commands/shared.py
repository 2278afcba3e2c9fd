"""What commands have in common: options, where they print, and what must be set before Prefect and MLflow are imported."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
import yaml
from rich.console import Console

from flows import defaults
from flows.terminal import PlainConsole
from posttrain.runtime.redaction import clean
from posttrain.runtime.store import Store
from schemas.errors import Refusal

HOME = ".posttrain"

Recipe = Annotated[Path, typer.Argument(help="Recipe in YAML.", show_default=False)]
Override = Annotated[
    list[str], typer.Option("--set", metavar="FIELD=VALUE", help="Override a field of the recipe; may be repeated.")
]
StoreOption = Annotated[
    str, typer.Option("--store", help="Folder that keeps results, runs and MLflow's SQLite file; or s3://BUCKET/PREFIX.")
]
Tracking = Annotated[str | None, typer.Option("--tracking-uri", help="MLflow; default is the SQLite file of the store.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; all else goes to stderr.")]


def prepare(store: str) -> Path:
    """The root of the store, with the defaults of Prefect and MLflow set for it.

    Both read them when they are imported: a command imports what needs them after this call.

    Raises:
        Refusal: when the store is neither a local folder nor a bucket that can be used.
    """
    root = Store(store).root
    defaults.apply(root)
    return root


def console() -> Console:
    """Where people read; stdout belongs to results."""
    return PlainConsole(stderr=True)


class Answer:
    """The one JSON document that a command with `--json` prints: its result, or why there is none."""

    def __init__(self) -> None:
        self._given = False

    def give(self, text: str, stream: TextIO | None = None) -> None:
        """Print the document."""
        self._given = True
        typer.echo(text, file=stream)

    def begin(self) -> None:
        """A command starts."""
        self._given = False

    def refuse(self, error: BaseException, code: int) -> None:
        """Print why there is no result, where a program waits for one and has none yet.

        Args:
            error: a refusal with its numbers, a gate's, or that of a command line, whose message is made by its library.
            code: that the process ends with.
        """
        if "--json" in sys.argv[1:] and not self._given:
            said = getattr(error, "format_message", error.__str__)()
            parts, details = (error.parts, error.details) if isinstance(error, Refusal) else (_usage(said), {})
            self.give(json.dumps({"status": "refused", "exit_code": code, "refused": parts, **details}, indent=1))


def _usage(said: str) -> dict[str, str]:
    return {"where": "command line", "found": clean(said), "allowed": "see --help", "remedy": "correct the command"}


answer = Answer()


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


def show(document: dict[str, Any], as_json: bool) -> None:
    """The same content for programs (JSON) and people (YAML)."""
    if as_json:
        answer.give(json.dumps(document, indent=1))
    else:
        typer.echo(clean(yaml.safe_dump(document, sort_keys=False, allow_unicode=True)).rstrip())
