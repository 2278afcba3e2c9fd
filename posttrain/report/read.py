"""Reads what the stages left in their folders; a file that a stage did not write is simply absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

Json = dict[str, Any]
Folders = Mapping[str, Path]


def document(folders: Folders, stage: str, name: str) -> Json:
    """A JSON object of a stage's folder; empty when the stage or the file is absent."""
    path = _path(folders, stage, name)
    return json.loads(path.read_text(encoding="utf-8")) if path else {}


def curve(folders: Folders, stage: str) -> list[Json]:
    """The points of a training curve in order of steps; empty when there is none."""
    return sorted(lines(folders, stage, "curve.jsonl"), key=lambda point: point["step"])


def lines(folders: Folders, stage: str, name: str) -> list[Json]:
    """The objects of a file of JSON lines; empty when there is none."""
    path = _path(folders, stage, name)
    text = path.read_text(encoding="utf-8") if path else ""
    return [json.loads(line) for line in text.split("\n") if line.strip()]  # a text may hold other line separators


def samples(folders: Folders) -> pl.DataFrame | None:
    """Prompts with each policy's response and reward, or None."""
    path = _path(folders, "evaluate", "samples.parquet")
    return pl.read_parquet(path, glob=False) if path else None


def _path(folders: Folders, stage: str, name: str) -> Path | None:
    path = folders[stage] / name if stage in folders else None
    return path if path and path.is_file() else None
