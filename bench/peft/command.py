"""`python -m bench peft`: every PEFT method on one model and one task, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import sides
from posttrain.peft.methods import METHODS

STEPS, THREADS = 30, 1


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench peft", description=__doc__)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="some methods; default: all")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of each method, the first not timed")
    parser.add_argument("--threads", type=int, default=THREADS, help="threads of each operator")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--markdown", action="store_true", help="a Markdown table with the published numbers beside ours")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="write trained share against loss")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.methods) - METHODS.keys()):
        parser.error(f"unknown method {', '.join(unknown)}; known are {', '.join(METHODS)}")
    if given.steps < 2:
        parser.error("--steps: 2 or more, since the first is not timed")
    result = measure(given.methods or list(METHODS), given.steps, given.threads)
    _print(result, given)


def measure(methods: Sequence[str], steps: int, threads: int) -> dict[str, Any]:
    """Prepare the task once, then run one method after the other."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder, measured = Path(scratch), {}
        sides.call([sys.executable, "-m", "bench.peft.task", str(folder)], threads)
        for name in methods:
            path = folder / f"{name}.json"
            sides.call([sys.executable, "-m", "bench.peft.method", str(folder), name, str(steps), str(path)], threads)
            measured[name] = json.loads(path.read_text())
            print(f"{name} done", file=sys.stderr)
        shared = json.loads((folder / "task.json").read_text())
    return {
        **shared,
        "steps": steps,
        "threads": threads,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "methods": measured,
    }


def _print(result: dict[str, Any], given: argparse.Namespace) -> None:
    """What draws is imported when all is measured: a process that forks inherits the memory of its parent."""
    from bench.peft.table import figure, markdown, text

    if given.plot:
        given.plot.write_text(figure(result), "utf-8")
    print(json.dumps(result, indent=1) if given.json else markdown(result) if given.markdown else text(result))
