"""Inputs → clean tables, a quarantine and a summary: reading, normal form, contract, and the refusal of what is too bad."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pandera.polars as pa
import polars as pl
import pyarrow

from posttrain.data import contract
from posttrain.data.contract import EXAMPLES, Finding, Verdict
from posttrain.data.kinds import KINDS, Kind
from posttrain.data.mixture import mix
from posttrain.data.readers import BadRow, OnNote, Row, limited, read_rows
from posttrain.data.shapes import Tally
from posttrain.data.sources import SourceFile
from posttrain.runtime.progress import current
from posttrain.runtime.writing import write_atomically
from schemas.conversations import Conversations
from schemas.data import CONTRACTS, Checks
from schemas.errors import Refusal
from schemas.feedback import Feedback
from schemas.preferences import Preferences
from schemas.prompts import Prompts

CHUNK: Final = 20_000  # rows that are held as Python objects at a time
QUARANTINE: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "source": pl.String,
    "file": pl.String,
    "row": pl.Int64,
    "reasons": pl.List(pl.String),
    "values": pl.String,
}
FAULTS: Final = {
    "prompt_mismatch": "pairs whose two sides answer different prompts",
    "conflict": "rows that contradict another row (A>B and B>A, or one answer with both labels)",
    "reversed_scores": "pairs whose scores contradict the label",
    "length_bias": "of pairs with the longer answer chosen (ties count half)",
    "max_drop_rate": "rows dropped",
}
log = logging.getLogger(__name__)


CLEAN: Final[dict[str, type[pa.DataFrameModel]]] = {
    "preferences": Preferences,
    "feedback": Feedback,
    "instructions": Conversations,
    "prompts": Prompts,
}
"""The schema of what is left, by kind."""


@dataclass(frozen=True)
class Outcome:
    """One validated data set."""

    clean: pl.DataFrame
    quarantine: pl.DataFrame
    summary: dict[str, Any]
    failures: tuple[Finding, ...]


def validate(given: Mapping[str, list[SourceFile]], checks: Checks, holdout: float, out: Path) -> dict[str, float]:
    """Check the data sets that are given and write `NAME.parquet` for each, `quarantine.parquet` and `summary.json` into `out`.

    Args:
        given: files by data set, one of `CONTRACTS`.
        checks: thresholds of the recipe.
        holdout: part of the prompts, by hash, that goes to the split `holdout`.
        out: folder to write into; made when absent.

    Returns:
        Counts such as `preferences_kept`.

    Raises:
        Refusal: when a file cannot be read as what it should be; or, after everything was written, for all data sets that break
            a threshold or have no row left, in one.
    """
    outcomes = {name: examine(name, files, checks, holdout) for name, files in given.items()}
    out.mkdir(parents=True, exist_ok=True)
    for name, outcome in outcomes.items():
        outcome.clean.write_parquet(out / f"{name}.parquet")
    empty = pl.DataFrame(schema=QUARANTINE)
    pl.concat([empty, *(outcome.quarantine for outcome in outcomes.values())]).write_parquet(out / "quarantine.parquet")
    write_atomically(out / "summary.json", json.dumps({name: outcome.summary for name, outcome in outcomes.items()}, indent=1))
    _refuse_failures(outcomes, out)
    counts = ("rows_in", "kept", "quarantined", "train", "holdout", "chosen_longer")
    return {f"{n}_{c}": float(o.summary[c]) for n, o in outcomes.items() for c in counts if c in o.summary}


def refuse_empty_splits(counts: Mapping[str, float]) -> None:
    """Refuse data sets of which nothing is left to train on, or nothing to evaluate on, given the counts of `validate`."""
    for name in (name for name in CONTRACTS if f"{name}_kept" in counts):
        for split in ("train", "holdout"):
            if not counts[f"{name}_{split}"]:
                raise Refusal(
                    where=f"data.{name}",
                    found=f"no row in the split {split}",
                    allowed="at least one",
                    remedy="change data.holdout, or the splits in the data",
                )


def examine(name: str, files: list[SourceFile], limits: Checks, holdout: float) -> Outcome:
    """Read one data set and judge it; nothing is written.

    Raises:
        Refusal: when a file cannot be read as what it should be.
    """
    kind = KINDS[name]
    notes, tally = list[str](), Tally()
    table, bad, rows_in = collect(kind, files, limits.incomplete == "keep", notes.append, tally)
    verdict = contract.judge(table, kind.checks, limits, holdout, rows_in)
    clean = CLEAN[name].to_schema().validate(verdict.clean, lazy=True)
    mixture = mix(clean, files)
    clean = mixture.table
    dropped = verdict.dropped.with_columns(source=pl.lit(name))
    quarantine = pl.concat([_unreadable(name, bad), dropped.select(list(QUARANTINE))])
    # Nothing vanishes: what was read is kept, quarantined, or left out by the weights of the recipe.
    out = clean.height + quarantine.height + mixture.left_out
    assert rows_in == out, f"{name}: {rows_in} rows in, {out} out"
    findings = [*_bad_findings(bad, rows_in), *verdict.findings, _drop_rate(quarantine, limits, rows_in)]
    findings += [contract.length_bias(verdict.lengths, limits)] if "chosen" in verdict.lengths.columns else []
    _warn_waived(name, findings, limits)
    notes += [f"data.{name}: {sentence}" for sentence in tally.sentences()]
    for note in notes:
        current().note(note)
    summary = _summary(rows_in, clean, quarantine, verdict, findings) | mixture.summary | tally.as_json(rows_in)
    summary |= {"notices": notes} if notes else {}
    return Outcome(clean, quarantine, summary, tuple(finding for finding in findings if finding.failed))


def collect(
    kind: Kind,
    files: list[SourceFile],
    keep_incomplete: bool = False,
    note: OnNote = lambda sentence: None,
    tally: Tally | None = None,
) -> tuple[pl.DataFrame, list[BadRow], int]:
    """All rows in normal form, the rows that could not be read or normalised, and how many there were of both.

    Where several rows of a file make one record, or one makes several, the records count.

    Args:
        kind: what the rows should be.
        files: where they are.
        keep_incomplete: whether the rows before a break in a file are read, instead of the file being refused.
        note: is given what a person should know about a file, a sentence each.
        tally: is given what is said of shapes and columns.

    Raises:
        Refusal: when a file cannot be read as what it should be.
    """
    bad: list[BadRow] = []
    unread: list[BadRow] = []  # refused by the reader, before they were counted
    read = 0

    def rows(file: SourceFile) -> Iterator[Row]:
        nonlocal read
        for row in read_rows(file, unread.append, keep_incomplete=keep_incomplete, note=note):
            read += 1
            yield row

    tally = tally or Tally()
    empty = pl.DataFrame(schema=kind.columns)
    schema = empty.to_arrow().schema
    frames = [empty]
    for file in files:
        records = kind.normalise(rows(file), file.name, limited(file, bad.append), file.reading, tally)
        while chunk := list(islice(records, CHUNK)):
            # Through Arrow: three times as fast as polars with nested Python objects.
            frames.append(pl.DataFrame(pyarrow.Table.from_pylist(chunk, schema)))
    table = pl.concat(frames)
    # Every row that was read is in a record, or was refused.
    assert read == tally.taken + len(bad), f"{read} rows read: {tally.taken} in records and {len(bad)} refused"
    tally.read = read + len(unread)
    return table, unread + bad, table.height + len(unread) + len(bad)


def _unreadable(name: str, bad: list[BadRow]) -> pl.DataFrame:
    rows = [{"source": name, "file": b.file, "row": b.row, "reasons": [b.reason], "values": b.value} for b in bad]
    return pl.DataFrame(rows, schema=QUARANTINE)


def _bad_findings(bad: list[BadRow], rows_in: int) -> list[Finding]:
    """One finding per code of the reader and the normal form."""
    shown = {code: tuple(f"{b.file}:{b.row}" for b in bad if b.code == code)[:EXAMPLES] for code in {b.code for b in bad}}
    return [
        Finding(code, "drop", count, count / rows_in, examples=shown[code])
        for code, count in Counter(b.code for b in bad).items()
    ]


def _drop_rate(quarantine: pl.DataFrame, limits: Checks, rows_in: int) -> Finding:
    share = quarantine.height / max(rows_in, 1)
    failed = share > limits.max_drop_rate and "max_drop_rate" not in limits.waive
    severity: contract.Severity = "warn" if "max_drop_rate" in limits.waive else "fail"
    places = contract.examples(quarantine, "file")
    return Finding("max_drop_rate", severity, quarantine.height, share, limits.max_drop_rate, failed, places)


def _summary(
    rows_in: int, clean: pl.DataFrame, quarantine: pl.DataFrame, verdict: Verdict, findings: list[Finding]
) -> dict[str, Any]:
    held = int((clean["split"] == "holdout").sum())
    longer = {f.check: f.share for f in findings}.get("length_bias")
    return {
        "rows_in": rows_in,
        "kept": clean.height,
        "quarantined": quarantine.height,
        "train": clean.height - held,
        "holdout": held,
        **({} if longer is None else {"chosen_longer": longer}),
        "checks": [finding.as_row() for finding in findings],
        "length_histogram": contract.length_histogram(verdict.lengths),
    }


def _warn_waived(name: str, findings: list[Finding], limits: Checks) -> None:
    for finding in findings:
        if finding.check in limits.waive and finding.limit is not None and finding.share > finding.limit:
            log.warning("%s: %s is %.2f%%, waived by the recipe", name, finding.check, 100 * finding.share)


def _refuse_failures(outcomes: dict[str, Outcome], out: Path) -> None:
    """One refusal for all data sets that are empty or break a threshold."""
    empty = [name for name, outcome in outcomes.items() if not outcome.clean.height]
    failures = [(name, f) for name, outcome in outcomes.items() for f in outcome.failures]
    if not empty and not failures:
        return
    found = [
        f"no rows left of {outcomes[name].summary['rows_in']} in data.{name}{_reasons(outcomes[name].quarantine)}"
        for name in empty
    ]
    found += [_described(name, finding) for name, finding in failures]
    allowed = [f"at least one clean row in data.{name}" for name in empty]
    allowed += [f"data.checks.{_field(f)} = {f.limit:g}" for _, f in failures]
    waivable = ", ".join(dict.fromkeys(f.check for _, f in failures))
    remedy = f"see {out / 'quarantine.parquet'} and correct the rows" + (
        f"; or set data.checks.waive: [{waivable}]" if waivable and not empty else ""
    )
    where = ", ".join(dict.fromkeys(f"data.{name}" for name in [*empty, *(name for name, _ in failures)]))
    raise Refusal(where=where, found="; ".join(found), allowed="; ".join(dict.fromkeys(allowed)), remedy=remedy)


def _reasons(quarantine: pl.DataFrame) -> str:
    """The most frequent reasons in words, with one row's own words where it has some."""
    reasons = quarantine["reasons"].explode().to_list()
    codes = Counter(reason.partition(":")[0] for reason in reasons).most_common(EXAMPLES)
    said = [f"{next(reason for reason in reasons if reason.partition(':')[0] == code)} ({count:,} rows)" for code, count in codes]
    return f": {'; '.join(said)}" if said else ""


def _field(finding: Finding) -> str:
    return finding.check if finding.check == "max_drop_rate" else f"{finding.check}_fail"


def _described(name: str, finding: Finding) -> str:
    examples = f" (such as {', '.join(finding.examples)})" if finding.examples else ""
    return f"{finding.share:.2%} {FAULTS[finding.check]} in data.{name}{examples}"
