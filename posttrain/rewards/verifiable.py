"""Rewards that are verified, not learned: 1.0 where a response holds what its row asks for, else 0.0, with what was read from it.

Each function takes (prompts, responses, rows) and does not apply (None) to rows without the column that it reads. A recipe names
one as `posttrain.rewards.verifiable:number`; other columns and limits take a function of your own that calls one of these.
"""

from __future__ import annotations

import functools
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from posttrain.rewards.calls import Rows
from posttrain.rewards.functions import Verdict
from schemas.errors import Refusal

BOXED: Final = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
ANNOUNCED: Final = re.compile(r"(?:####|\banswer\s*(?:is\s*:?|:|=))\s*(.+)", re.IGNORECASE)
NUMBER: Final = re.compile(
    r"(?<![\w.])[-+\u2212]?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+(?:\.\d+)?)?(%)?"
)
_SYMBOL: Final = r"[A-Za-zµμΩ°]{1,16}"  # short, and with exponents of one digit: what a model writes is parsed
QUANTITY: Final = re.compile(rf"{NUMBER.pattern}(?:\s*({_SYMBOL}(?:[/*·^]-?(?:{_SYMBOL}|\d(?!\d))){{0,6}}))?")
CHOICE: Final = re.compile(r"(?<![A-Za-z0-9'])\(?([A-Z])\)?(?![A-Za-z0-9'])")
FENCED: Final = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
Check = Callable[[str, Mapping[str, Any]], Verdict]


def exact(prompts: Sequence[str], responses: Sequence[str], rows: Rows, column: str = "answer") -> list[Verdict]:
    """Whether the final answer of a response is the row's: apart from case, white space, Unicode form and closing punctuation.

    The final answer is what `\\boxed{}` holds last, else what follows the last "answer is", "answer:" or "####", else all of it.
    """

    def check(response: str, row: Mapping[str, Any]) -> Verdict:
        found = final_answer(response)
        return _scored(normalised(found) == normalised(str(row[column])), found)

    return _each(check, responses, rows, column)


def number(
    prompts: Sequence[str], responses: Sequence[str], rows: Rows, column: str = "answer", tolerance: float = 1e-6
) -> list[Verdict]:
    """Whether the last number of the final answer is the row's, within `tolerance` relative to it, or the row's own `tolerance`.

    Thousands may have commas, a number may be a fraction, and % divides by 100. A `unit` of the row must follow.
    """

    def check(response: str, row: Mapping[str, Any]) -> Verdict:
        expected = last_number(str(row[column]))
        if expected is None:
            return Verdict(None)
        answer = final_answer(response)
        read = last_number(answer)
        if read is None:
            return _scored(False, None)
        near = math.isclose(read[0], expected[0], rel_tol=float(row.get("tolerance") or tolerance), abs_tol=1e-12)
        unit = normalised(str(row.get("unit") or ""))
        return _scored(near and _unit_follows(normalised(read[1]), unit), f"{read[0]:g}{f' {unit}' if unit else ''}")

    return _each(check, responses, rows, column)


def quantity(
    prompts: Sequence[str], responses: Sequence[str], rows: Rows, column: str = "answer", tolerance: float = 1e-6
) -> list[Verdict]:
    """Whether the last number with its unit is the row's in any unit of its dimension, by `pint`: 1.5 km is 1500 m.

    The row's answer has its unit (`1500 m`), or there is a column `unit`; `tolerance` is as of `number`.
    """

    def check(response: str, row: Mapping[str, Any]) -> Verdict:
        expected, read = (_last_quantity(text) for text in (str(row[column]), final_answer(response)))
        if expected is None:
            return Verdict(None)
        if read is None:
            return _scored(False, None)
        value = _in_unit(*read, str(row.get("unit") or expected[1]))
        within = float(row.get("tolerance") or tolerance)
        near = value is not None and math.isclose(value, expected[0], rel_tol=within, abs_tol=1e-12)
        return _scored(near, f"{read[0]:g} {read[1]}".strip())

    return _each(check, responses, rows, column)


def choice(prompts: Sequence[str], responses: Sequence[str], rows: Rows, column: str = "answer") -> list[Verdict]:
    """Whether the last letter on its own in the final answer (`B`, `(B)`, `B.`) is the row's: a letter, or an index from 0."""

    def check(response: str, row: Mapping[str, Any]) -> Verdict:
        given = row[column]
        letter = chr(ord("A") + given) if isinstance(given, int) else str(given).strip(" ().").upper()
        found = CHOICE.findall(final_answer(response))
        return _scored(bool(found) and found[-1] == letter, found[-1] if found else None)

    return _each(check, responses, rows, column)


def pattern(prompts: Sequence[str], responses: Sequence[str], rows: Rows, column: str = "pattern") -> list[Verdict]:
    """Whether the whole response fits the row's regular expression (`.` includes line breaks), as a format asks."""

    def check(response: str, row: Mapping[str, Any]) -> Verdict:
        found = re.fullmatch(str(row[column]), response.strip(), re.DOTALL)
        return _scored(found is not None, (found[1] if found.groups() else found[0]) if found else None)

    return _each(check, responses, rows, column)


def json_schema(prompts: Sequence[str], responses: Sequence[str], rows: Rows, column: str = "schema") -> list[Verdict]:
    """Whether a response, or its last fenced block, is JSON that fits the row's JSON Schema (an object, or its text)."""
    import jsonschema

    def check(response: str, row: Mapping[str, Any]) -> Verdict:
        schema = json.loads(row[column]) if isinstance(row[column], str) else row[column]
        blocks = FENCED.findall(response)
        text = (blocks[-1] if blocks else response).strip()
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return _scored(False, None)
        return _scored(jsonschema.validators.validator_for(schema)(schema).is_valid(value), text)

    return _each(check, responses, rows, column)


def length(prompts: Sequence[str], responses: Sequence[str], rows: Rows) -> list[Verdict]:
    """Whether a response has from `min_words` to `max_words` words, columns of the row; else 1 less the relative excess."""

    def check(response: str, row: Mapping[str, Any]) -> Verdict:
        least, most = row.get("min_words"), row.get("max_words")
        if least is None and most is None:
            return Verdict(None)
        words = len(response.split())
        beyond = max((least or 0) - words, words - (most if most is not None else words), 0)
        limit = least if least is not None and words < least else most
        return Verdict(max(0.0, 1.0 - beyond / max(1, limit or 1)), f"{words} words")

    return [check(response, row) for response, row in zip(responses, rows, strict=True)]


def math_equal(prompts: Sequence[str], responses: Sequence[str], rows: Rows, column: str = "answer") -> list[Verdict]:
    """Whether a response's last mathematical expression equals the row's, by `math-verify`; LaTeX, sets, intervals, fractions."""
    from math_verify import parse, verify

    def check(response: str, row: Mapping[str, Any]) -> Verdict:
        # No timeout of the library's own: it works by signals, which only a main thread gets. The recipe's holds.
        expected, found = (parse(text, parsing_timeout=None) for text in (str(row[column]), response))
        if not expected:
            return Verdict(None)
        return _scored(bool(verify(expected, found, timeout_seconds=None)), str(found[-1]) if found else None)

    return _each(check, responses, rows, column)


def _needs(module: str, package: str, extra: str) -> Callable[[], None]:
    def check() -> None:
        import importlib.util

        if importlib.util.find_spec(module) is None:
            raise Refusal(
                where="posttrain.rewards.verifiable",
                found=f"a function that needs {package}, which is not installed",
                allowed=f"an environment with {package}",
                remedy=f"pip install 'posttrain[{extra}]'",
            )

    return check


quantity.check = _needs("pint", "pint", "verifiable")  # type: ignore[attr-defined]
json_schema.check = _needs("jsonschema", "jsonschema", "verifiable")  # type: ignore[attr-defined]
math_equal.check = _needs("math_verify", "math-verify", "verifiable")  # type: ignore[attr-defined]


def final_answer(response: str) -> str:
    """The part of a response that is its answer: what is boxed last, else what is announced last, else all of it."""
    for marked in (BOXED, ANNOUNCED):
        if found := marked.findall(response):
            return str(found[-1]).strip()
    return response.strip()


def normalised(text: str) -> str:
    """Case, white space, Unicode form, and punctuation and dollar signs around it taken away."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .,;:!?\"'`$*")


def last_number(text: str) -> tuple[float, str] | None:
    """The last number of a text, and what follows it; None where there is none."""
    matches = list(NUMBER.finditer(text))
    if not matches:
        return None
    numerator, _, denominator = matches[-1][0].replace(",", "").replace("\u2212", "-").rstrip("%").partition("/")
    try:
        value = float(numerator) / (float(denominator) if denominator else 1.0)
    except ZeroDivisionError:
        return None
    return (value / 100 if matches[-1][1] else value), text[matches[-1].end() :]


def _last_quantity(text: str) -> tuple[float, str] | None:
    """The last number that is no exponent of a unit, and its unit."""
    found = list(QUANTITY.finditer(text))
    number = last_number(found[-1][0][: found[-1].start(2) - found[-1].start() if found[-1][2] else None]) if found else None
    return (number[0], found[-1][2] or "") if number else None


def _in_unit(value: float, said: str, unit: str) -> float | None:
    """A value in another unit; None where it has none, or one of another dimension."""
    if said == unit:
        return value
    import pint

    try:
        converted: float = _units().Quantity(value, said).to(unit).magnitude
    except (pint.PintError, ValueError, TypeError, AttributeError, OverflowError):
        return None
    return converted


@functools.cache
def _units() -> Any:
    """pint's registry takes a second to be made."""
    import pint

    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True)


def _unit_follows(rest: str, unit: str) -> bool:
    return not unit or re.match(rf"{re.escape(unit)}(?!\w)", rest) is not None


def _each(check: Check, responses: Sequence[str], rows: Rows, column: str) -> list[Verdict]:
    """The check of every response whose row has the column."""
    return [
        check(response, row) if row.get(column) is not None else Verdict(None)
        for response, row in zip(responses, rows, strict=True)
    ]


def _scored(right: bool, extracted: str | None) -> Verdict:
    return Verdict(float(right), extracted)
