"""Rewards of code that is run: 1.0 where the last fenced block of a response passes its row's tests in a sandbox, else 0.0.

A recipe names `posttrain.rewards.code:python`. A row has `tests`: statements (one text, or a list of them), which follow the code
in one program; or a list of {"input", "output"}, what the program reads and what it must print. The latter cannot be cheated from
inside; in the former, code that looks for its own test could, as in every harness that shares a process.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from posttrain.rewards import sandbox
from posttrain.rewards.calls import Rows
from posttrain.rewards.functions import Verdict
from posttrain.rewards.verifiable import FENCED
from schemas.errors import Refusal

LIMITS = sandbox.Limits()
SAID = 200  # characters of the output of a program that failed, for people


def python(
    prompts: Sequence[str], responses: Sequence[str], rows: Rows, column: str = "tests", limits: sandbox.Limits = LIMITS
) -> list[Verdict]:
    """Whether the Python code of each response passes its row's tests, as many at a time as there are cores.

    Raises:
        Refusal: where no sandbox can be set up, or a test is neither statements nor an input with its output.
    """
    sandbox.check()
    tests = [_tests(row[column], column) if row.get(column) is not None else None for row in rows]

    def verdict(response: str, cases: list[str | Mapping[str, Any]] | None) -> Verdict:
        return Verdict(None) if cases is None else _verdict(code_of(response), cases, limits)

    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)) or 1, thread_name_prefix="sandbox") as pool:
        return list(pool.map(verdict, responses, tests))


python.check = sandbox.check  # type: ignore[attr-defined]


def code_of(response: str) -> str:
    """The last fenced block of a response; a response without one is code as a whole."""
    blocks = FENCED.findall(response)
    return str(blocks[-1] if blocks else response)


def _tests(given: Any, column: str) -> list[str | Mapping[str, Any]]:
    listed = given if isinstance(given, list) else [given]
    for test in listed:
        if not isinstance(test, str) and not (isinstance(test, Mapping) and {"input", "output"} <= test.keys()):
            raise Refusal(
                where=f"posttrain.rewards.code ({column})",
                found=f"{test!r:.80}",
                allowed="statements as text, or an object with input and output",
                remedy="change the column",
            )
    return listed


def _verdict(code: str, tests: list[str | Mapping[str, Any]], limits: sandbox.Limits) -> Verdict:
    statements = [test for test in tests if isinstance(test, str)]
    failure = _fails("\n".join((code, *statements)), limits) if statements else None
    for test in tests:
        if failure is None and isinstance(test, Mapping):
            failure = _prints_otherwise(code, str(test["input"]), str(test["output"]), limits)
    return Verdict(1.0, "passed") if failure is None else Verdict(0.0, f"failed: {failure}")


def _fails(program: str, limits: sandbox.Limits) -> str | None:
    """What went wrong; a program that leaves early, with status 0 too, has not printed the mark that it reads at its end."""
    mark = secrets.token_hex(8)
    found = sandbox.run_python(f"{program}\nimport sys as _end\nprint('\\n' + _end.stdin.readline())", mark + "\n", limits)
    passed = found.code == 0 and found.output.rstrip().endswith(mark)
    return None if passed else found.stopped or _last_line(found.output) or f"ended with status {found.code} before its tests"


def _prints_otherwise(code: str, given: str, expected: str, limits: sandbox.Limits) -> str | None:
    found = sandbox.run_python(code, given, limits)
    if found.code == 0 and _lines(found.output) == _lines(expected):
        return None
    return found.stopped or f"printed {found.output[:SAID]!r} (status {found.code})"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _last_line(output: str) -> str:
    return (output.rstrip().splitlines() or [""])[-1][:SAID]
