"""Picks the responses that a person reads side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

RANDOM, EXTREME = 6, 3
MOMENTS = 5  # of a course that are shown
LONGEST = 2000  # characters of one text in the report


@dataclass(frozen=True)
class Answer:
    """One policy's response."""

    policy: str
    text: str
    reward: float | None


@dataclass(frozen=True)
class Sample:
    """One prompt with every policy's response."""

    prompt: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Group:
    """Samples chosen by one rule."""

    title: str
    samples: tuple[Sample, ...]


def policies(frame: pl.DataFrame | None, named: list[str]) -> list[str]:
    """Policies with responses in the samples: in the order of the evaluation, or of the file when that names none."""
    columns = frame.columns if frame is not None else []
    order = named or [column.removeprefix("response_") for column in columns if column.startswith("response_")]
    return [name for name in order if f"response_{name}" in columns]


def judged(frame: pl.DataFrame, names: list[str]) -> list[str]:
    """Those of the policies whose responses have rewards."""
    return [name for name in names if f"reward_{name}" in frame.columns]


def groups(frame: pl.DataFrame | None, names: list[str], seed: int) -> list[Group]:
    """Six random prompts (fixed by the seed), then the three with the best and the worst difference to the policy before.

    Best and worst never share a prompt; with a single policy, or without rewards, there are only the random ones.
    """
    if frame is None or not names:
        return []
    chosen = {"Random": frame.with_row_index("row").sample(min(RANDOM, frame.height), seed=seed).sort("row")}
    if len(names) > 1 and judged(frame, names[-2:]) == names[-2:]:
        candidate, opponent = names[-1], names[-2]
        gap = pl.col(f"reward_{candidate}") - pl.col(f"reward_{opponent}")
        ranked = frame.with_columns(difference=gap).filter(pl.col("difference").is_finite())
        ranked = ranked.sort("difference", descending=True, maintain_order=True)
        ends = min(EXTREME, ranked.height // 2)
        chosen[f"Best against {opponent}"] = ranked.head(ends)
        chosen[f"Worst against {opponent}"] = ranked.tail(ends).reverse()
    shown = {title: tuple(sample_of(row, names) for row in rows.to_dicts()) for title, rows in chosen.items()}
    return [Group(title, samples) for title, samples in shown.items() if samples]


def course(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the responses that PPO kept, those of five iterations from the first to the last."""
    iterations = sorted({row["iteration"] for row in rows})
    last = max(1, MOMENTS - 1)
    chosen = {iterations[i * (len(iterations) - 1) // last] for i in range(MOMENTS)} if iterations else set()
    return [
        {**row, "prompt": _cut(row["prompt"]), "response": _cut(row["response"]), "read": _read(row)}
        for row in rows
        if row["iteration"] in chosen
    ]


def _read(row: dict[str, Any]) -> str:
    """What each reward says that it read from the response."""
    return _cut("; ".join(f"{name}: {read}" for name, read in row.get("extracted", {}).items() if read is not None))


def sample_of(row: dict[str, Any], names: list[str]) -> Sample:
    """A row of the samples, its texts cut."""
    answers = (Answer(name, _cut(row[f"response_{name}"]), row.get(f"reward_{name}")) for name in names)
    return Sample(_cut(row["prompt"]), tuple(answers))


def _cut(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"
