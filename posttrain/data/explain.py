"""The table of shapes as people read it: for `posttrain validate --explain shapes` and docs/data.md."""

from __future__ import annotations

from typing import Final

from posttrain.data.columns import CONTEXT, MEANINGFUL
from posttrain.data.kinds import KINDS
from posttrain.data.messages import ROLES
from posttrain.data.pairs import SCORES
from posttrain.data.shapes import Shape

NAMES_OF_SCORES: Final = frozenset(name for names in SCORES.values() for name in names)
HEAD: Final = ("| shape | columns that it needs | and reads | becomes |", "|---|---|---|---|")
PARTS: Final = {
    "preferences": "prompt; chosen; rejected",
    "feedback": "turns before the answer; the answer; whether it is desirable",
    "instructions": "turns before the answer; the answer",
    "prompts": "what is asked; all other columns are for reward functions and judges",
}


def shapes_table() -> str:
    """Markdown: a table for each data set, in the order in which shapes are tried, and what holds for all of them."""
    tables = [_table(name, kind.shapes) for name, kind in KINDS.items()]
    return "\n\n".join([*tables, _for_all()]) + "\n"


def _table(name: str, shapes: tuple[Shape, ...]) -> str:
    rows = [f"| {shape.name} | {_columns(shape.needs)} | {_columns(_also(shape))} | {shape.becomes} |" for shape in shapes]
    return "\n".join([f"Rows of `data.{name}` ({PARTS[name]}):", "", *HEAD, *rows])


def _also(shape: Shape) -> tuple[str, ...]:
    """Scores have several names for each side, which would hide the rest."""
    rest = tuple(name for name in shape.also if name not in NAMES_OF_SCORES)
    return (*rest, "scores of the sides") if len(rest) < len(shape.also) else rest


def _columns(names: tuple[str, ...]) -> str:
    """`a` or `b`, with the bars that a table needs escaped."""
    return ", ".join(" or ".join(f"`{each}`" if " " not in each else each for each in name.split("|")) for name in names)


def _for_all() -> str:
    roles: dict[str, list[str]] = {}
    for name, role in ROLES.items():
        roles.setdefault(role, []).append(name)
    known = "; ".join(f"{role}: {', '.join(names)}" for role, names in roles.items())
    context, refused = (", ".join(f"`{name}`" for name in names) for names in (CONTEXT, MEANINGFUL))
    return "\n".join(
        (
            f"Every shape also reads {context} (put before the prompt) and `split`. Roles by the names they may have: {known}.",
            "",
            f"Columns that nothing reads are named with their number of rows. These are refused, since rows would mean something "
            f"else without them, unless `ignore` lists them or `columns` names them: {refused}.",
        )
    )
