"""`python -m bench numbers [NAME …] [--markdown]`: tables of what the project's numbers are worth, computed anew each time."""

from __future__ import annotations

import argparse
import importlib
import json
from typing import Any

Row = dict[str, Any]
TABLES = {  # by name: a module with a function `table() -> list[Row]`, whose docstring's first line is the title
    "head": "bench.numbers_head",
    "coverage": "bench.numbers_coverage",
}


def markdown(title: str, rows: list[Row]) -> str:
    """A heading and a table; numbers to two digits, the columns those of the first row."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join([f"## {title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def _cell(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def main(arguments: list[str]) -> None:
    """Compute tables and print them as JSON or as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench numbers")
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; all by default")
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.tables if name not in TABLES]:
        parser.error(f"no table {unknown[0]}; there are {', '.join(TABLES)}")
    found = {name: importlib.import_module(TABLES[name]).table for name in given.tables or TABLES}
    if given.markdown:
        for table in found.values():
            print(markdown((table.__doc__ or "").splitlines()[0].rstrip("."), table()))
    else:
        print(json.dumps({name: table() for name, table in found.items()}, indent=1))
