"""Rows that did not reach training, with why: a few of each reason, so that a person sees whether the rules are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from posttrain.report.read import Folders

EXAMPLES = 2  # of each reason
REASONS = 12  # of each table
CHARACTERS = 300  # of each text
TABLES = ("quarantine.parquet", "rejected.parquet")
TEXTS = ("values", "text")
PLACE = ("file", "source", "id", "row")


def left_out(folders: Folders) -> dict[str, list[dict[str, Any]]]:
    """By stage: reason, number of rows that have it, and a few of them as `place` and `text`; the most frequent reason first."""
    tables = {stage: [folder / name for name in TABLES if (folder / name).is_file()] for stage, folder in folders.items()}
    found = {stage: _of_stage(paths) for stage, paths in tables.items()}
    return {stage: rows for stage, rows in found.items() if rows}


def _of_stage(tables: list[Path]) -> list[dict[str, Any]]:
    reasons = [reason for table in tables for reason in _reasons(table)]
    return sorted(reasons, key=lambda each: (-each["rows"], each["reason"]))[:REASONS]


def _reasons(path: Path) -> list[dict[str, Any]]:
    """A row has several reasons, or one, in which the numbers of this row are left aside."""
    table = pl.scan_parquet(path, glob=False)
    columns = table.collect_schema()
    reasons = next((name for name in ("reasons", "reason") if name in columns), None)
    if reasons is None:
        return []
    named = [pl.col(name).cast(pl.String) for name in PLACE if name in columns]
    text = next((pl.col(name).cast(pl.String).str.slice(0, CHARACTERS) for name in TEXTS if name in columns), pl.lit(""))
    listed = table.select(reason=reasons, place=pl.concat_str(named, separator=":", ignore_nulls=True), text=text)
    rows = (
        (listed.explode("reason") if reasons == "reasons" else listed)
        .with_columns(pl.col("reason").str.split(":").list.first().str.replace_all(r"\b\d+\b", "N"))
        .group_by("reason", maintain_order=True)
        .agg(pl.len().alias("rows"), pl.col("place").head(EXAMPLES), pl.col("text").head(EXAMPLES))
        .collect()
    )
    return [
        {"reason": row["reason"], "rows": row["rows"], "examples": list(zip(row["place"], row["text"], strict=True))}
        for row in rows.iter_rows(named=True)
        if row["reason"]
    ]
