"""The columns of a row by name: what a recipe maps or leaves out, what nothing reads, what a wrong name was meant to be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from schemas.errors import Refusal, closest
from schemas.reading import Reading

SYSTEM: Final = ("system", "system_prompt", "system_message")
HISTORY: Final = ("history",)
TOOLS: Final = ("tools",)
CONTEXT: Final = (*SYSTEM, *HISTORY, *TOOLS)
"""Columns beside a prompt that stand before it in the conversation; every shape reads them."""
MEDIA: Final = ("images", "image", "videos", "video", "audios", "audio")
LABELS: Final = ("label", "kto_tag", "desirable")
"""Of feedback: of TRL and ms-swift, of LLaMA-Factory, and in the words of the paper."""
MEANINGFUL: Final = {
    **dict.fromkeys(LABELS, "it says which answers are good, and data.feedback is for such rows"),
    "weight": "it says how much a row counts",
    "reasoning_content": "it is a part of the answer",
    **dict.fromkeys(SYSTEM, "it is a message before the prompt"),
    **dict.fromkeys(HISTORY, "it holds the turns before the prompt"),
    **dict.fromkeys((*TOOLS, "functions"), "the answers call them"),
    **dict.fromkeys(MEDIA, "the prompt is about them, and text alone is read"),
}
"""Columns without which a row means something else, with the reason."""
NUMBERED: Final = re.compile(r"(?:\d+|[_-][A-Za-z])$")
LIKE: Final = 0.8  # of `difflib`: a rename that is proposed had better be right
EMPTY: Final[tuple[Any, ...]] = (None, "", [], {})


def prepared(row: dict[str, Any], reading: Reading) -> dict[str, Any]:
    """The row under the names that shapes know, without what the recipe leaves out."""
    if reading.ignore:
        row = {name: _without(value, reading.ignore) for name, value in row.items() if name not in reading.ignore}
    if not reading.columns:
        return row
    taken = {name.split(".")[0] for name in reading.columns.values()}
    kept = {name: value for name, value in row.items() if name not in taken}
    return kept | {known: _at(row, name) for known, name in reading.columns.items() if _has(row, name)}


def _without(value: Any, ignore: Sequence[str]) -> Any:
    """The value without fields, and parts of contents, of these names; `images` stands for parts such as `image_url` too."""
    if isinstance(value, Mapping):
        return {name: _without(inner, ignore) for name, inner in value.items() if name not in ignore}
    if isinstance(value, list):
        return [_without(inner, ignore) for inner in value if not _is_part(inner, ignore)]
    return value


def _is_part(value: Any, ignore: Sequence[str]) -> bool:
    name = value.get("type") if isinstance(value, Mapping) else None
    media = tuple(each.removesuffix("s") for each in ignore if each in MEDIA)
    return isinstance(name, str) and (name in ignore or name.startswith(media))


def _at(row: Any, path: str) -> Any:
    if path in row:
        return row[path]
    for step in path.split("."):
        row = row.get(step) if isinstance(row, Mapping) else None
    return row


def _has(row: Mapping[str, Any], path: str) -> bool:
    return path in row or ("." in path and _at(row, path) is not None)


def check_columns(reading: Reading, known: Iterable[str], where: str) -> None:
    """Refuse a mapping to a column that no shape reads.

    Raises:
        Refusal: with the known name that was most likely meant.
    """
    names = sorted(set(known))
    for column, yours in reading.columns.items():
        if column in names:
            continue
        turned = yours in names
        near = closest(column, names)
        raise Refusal(
            where=f"{where}: columns.{column}",
            found=f"`{column}`, which is no column that is read",
            allowed=f"one of {', '.join(names)}",
            remedy=f"write {yours}: {column}: the known name comes first" if turned
            else f"did you mean {near}?" if near else "see posttrain validate --explain shapes",
        )  # fmt: skip


def refuse_unread(unread: Mapping[str, int], where: str) -> None:
    """Refuse rows with columns that nothing reads and that would change what the rows mean.

    Args:
        unread: rows in which a column holds something, by name.
        where: the file.

    Raises:
        Refusal: naming each, and why it matters.
    """
    found = {name: count for name, count in unread.items() if name in MEANINGFUL and count}
    if not found:
        return
    said = "; ".join(f"`{name}` in {count:,} rows: {MEANINGFUL[name]}" for name, count in found.items())
    names = ", ".join(found)
    raise Refusal(
        where=where,
        found=f"columns that no shape of these rows reads and that change what they mean ({said})",
        allowed="columns that are read (posttrain validate --explain shapes), or that are ignored on purpose",
        remedy=f"set ignore: [{names}] to train without, name them in columns, or change the rows",
    )


def example(needs: Iterable[str], yours: str = "yours") -> str:
    """How the columns of a shape are named in `columns`."""
    return f"{{{', '.join(f'{need}: {yours}' for need in needs)}}}"


def wrong_columns(present: Sequence[str], shapes: Sequence[tuple[str, ...]], plainest: tuple[str, ...]) -> str:
    """What would complete the shape of which the most columns are there: renames, and columns to add.

    Args:
        present: columns of the rows.
        shapes: the columns that each shape needs, by one name each.
        plainest: those of the shape that is shown where none is near.
    """
    best = max(shapes, key=lambda needs: _nearness(needs, present))
    known = {near for need in best if (near := meant(need, present))}
    if not known:
        return f"name your columns in `columns`, known names first, as {example(plainest)}"
    if len(known) == 1:  # a prompt, say, of which a list of answers is not the likeliest to be missing because it is one column
        best = next(needs for needs in shapes if any(meant(need, present) for need in needs))
    names = {need: near for need in best if need not in present and (near := meant(need, present))}
    steps = [f"rename `{near}` to `{need}`" for need, near in names.items()]
    if names:
        mapping = ", ".join(f"{need}: {near}" for need, near in names.items())
        steps[-1] += f" (or set columns: {{{mapping}}})"
    missing = [need for need in best if need not in present and need not in names]
    rest = [name for name in present if name not in (*best, *names.values(), *CONTEXT, "split")]
    mapped = f", or name yours in columns, as {example(missing)}" if rest else ""
    steps += [f"add {', '.join(f'`{need}`' for need in missing)}{mapped}"] if missing else []
    return ", ".join(steps) or f"write {', '.join(f'`{need}`' for need in best)} in each row: no row has all of them"


def _nearness(needs: tuple[str, ...], present: Sequence[str]) -> tuple[float, int, int]:
    """How near a shape is: the share of its columns that can be told, how many are certain, how many there are."""
    found = [meant(need, present) for need in needs]
    certain = sum(same_but_case(need, present) is not None for need in needs)
    return len(set(filter(None, found))) / len(needs), certain, len(needs)


def meant(need: str, present: Sequence[str]) -> str | None:
    """The column that was most likely meant by `need`, itself first.

    Never one with another number at its end: `response_1` is no misspelt `response`, but one of two answers.
    """
    if need in present:
        return need
    same = [name for name in present if _number(name) == _number(need)]
    return same_but_case(need, same) or next(iter(difflib.get_close_matches(need, same, 1, LIKE)), None)


def same_but_case(need: str, present: Iterable[str]) -> str | None:
    """The column that differs from `need` in case, blanks and dashes alone."""
    return next((name for name in present if plain_name(name) == plain_name(need)), None)


def plain_name(name: str) -> str:
    """A name of a column in lower case, with underscores for blanks and dashes."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _number(name: str) -> str:
    found = NUMBERED.search(name)
    return found[0].lower() if found else ""
