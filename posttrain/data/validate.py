"""Inputs → clean tables, a quarantine and a summary: reading, normal form, contract, and the refusal of what is too bad."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandera.polars as pa
import polars as pl

from posttrain.data.checks.contamination import evaluation_index
from posttrain.data.checks.repairs import repaired
from posttrain.data.checks.table import across_of, checks_of
from posttrain.data.collect import Collector
from posttrain.data.contract import RowCheck, Severity
from posttrain.data.findings import EXAMPLES, Finding, Lengths, Tallied, finding
from posttrain.data.kinds import KINDS
from posttrain.data.mixture import BY_ROWS, Mixture
from posttrain.data.passes import Passes, lengths_of
from posttrain.data.readers import BadRow
from posttrain.data.sources import SourceFile
from posttrain.data.table_file import TableFile
from posttrain.data.verdict import Outcome, refuse_failures
from posttrain.runtime.progress import current
from posttrain.runtime.writing import replacing, write_atomically
from posttrain.text.overlap import EvaluationIndex
from posttrain.text.tokens import tokenizer_file
from schemas.conversations import Conversations
from schemas.data import Checks
from schemas.feedback import Feedback
from schemas.preferences import Preferences
from schemas.prompts import Prompts
from schemas.sources import Weights

QUARANTINE: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "source": pl.String,
    "file": pl.String,
    "row": pl.Int64,
    "reasons": pl.List(pl.String),
    "values": pl.String,
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
class Asked:
    """What a recipe asks of rows."""

    limits: Checks
    holdout: float
    """Part of the prompts, by hash, that goes to the split `holdout`."""
    weights: Weights
    """What the weights of sources are shares of."""
    index: EvaluationIndex | None
    """Of the evaluation sets that rows must not repeat."""


def validate(
    given: Mapping[str, list[SourceFile]], checks: Checks, holdout: float, out: Path, against: Sequence[SourceFile] = (),
    weights: Weights = BY_ROWS,
) -> dict[str, float]:  # fmt: skip
    """Check the data sets that are given and write `NAME.parquet` for each, `quarantine.parquet` and `summary.json` into `out`.

    Rows stream through: what is held of each is 30 bytes (`across.Repeats`, `NearPrompts`), and what waits for the others lies on
    disk.

    Args:
        given: files by data set, one of `CONTRACTS`.
        checks, holdout, weights: of the recipe (`Asked`).
        out: folder to write into; made when absent.
        against: files of the evaluation sets of `checks.decontaminate`.

    Returns:
        Counts such as `preferences_kept`.

    Raises:
        Refusal: when a file cannot be read as what it should be; or, after everything was written, for all data sets that break
            a threshold or have no row left, in one.
    """
    if weights.tokenizer is not None:
        tokenizer_file(weights.tokenizer, "data.weights.tokenizer")
    index = evaluation_index(against, "data.checks.decontaminate") if against else None
    asked = Asked(checks, holdout, weights, index)
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        quarantine, *tables = (
            stack.enter_context(TableFile(stack.enter_context(replacing(out / f"{name}.parquet")), columns))
            for name, columns in (("quarantine", QUARANTINE), *((name, _clean_columns(name)) for name in given))
        )
        outcomes = {
            name: examine(name, files, asked, out, clean, quarantine)
            for (name, files), clean in zip(given.items(), tables, strict=True)
        }
    write_atomically(out / "summary.json", json.dumps({name: outcome.summary for name, outcome in outcomes.items()}, indent=1))
    refuse_failures(outcomes, out)
    counts = ("rows_in", "kept", "quarantined", "train", "holdout", "chosen_longer")
    return {f"{n}_{c}": float(o.summary[c]) for n, o in outcomes.items() for c in counts if c in o.summary}


def _clean_columns(name: str) -> dict[str, pl.DataType | type[pl.DataType]]:
    """Those of the normal form that the clean table promises."""
    promised = CLEAN[name].to_schema().columns
    return {column: kind for column, kind in KINDS[name].columns.items() if column in promised}


def examine(
    name: str, files: list[SourceFile], asked: Asked, folder: Path, clean: TableFile, quarantine: TableFile
) -> Outcome:  # fmt: skip
    """Read one data set, judge it, and write its rows.

    Args:
        name: of the data set.
        files: where its rows are.
        asked: what the recipe asks of them.
        folder: for rows that wait.
        clean: takes the rows that are kept.
        quarantine: takes the others.

    Raises:
        Refusal: when a file cannot be read as what it should be.
    """
    kind, limits = KINDS[name], asked.limits
    notes, bad, mended, before = list[str](), _Unreadable(name, quarantine), Tallied(), quarantine.rows
    collector = Collector(kind, files, limits.incomplete == "keep", notes.append, bad.take)
    checks = checks_of(kind, limits, asked.index)
    passes = Passes(checks, across_of(kind, limits, folder), asked.holdout, folder)
    mixture = Mixture(files, asked.weights)
    for table in collector.tables():
        mixture.take(passes.take(repaired(table, limits, mended)))
        bad.write()
    bad.write()
    written = _write(name, passes, mixture, clean, quarantine)
    # Nothing vanishes: what was read is kept, quarantined, or left out by the weights of the recipe.
    counts = _Counts(collector.records + bad.rows, clean.rows, quarantine.rows - before)
    assert counts.rows_in == counts.kept + counts.quarantined + mixture.left_out, f"{name}: {counts}, {mixture.left_out} left out"
    findings = _findings(checks, written, bad.tally, limits, counts)
    _warn_waived(name, findings, limits)
    notes += [f"data.{name}: {sentence}" for sentence in collector.tally.sentences()]
    for note in notes:
        current().note(note)
    summary = _summary(counts, written, findings) | mixture.summary | collector.tally.as_json(counts.rows_in)
    notes += [f"data.{name}: {sentence}" for sentence in empty_splits(summary)]
    summary |= {"notices": notes} if notes else {}
    summary |= {"waived": dict(limits.waive)} if limits.waive else {}
    summary |= {"repaired": {each: {"rows": n, "examples": list(mended.places(each))} for each, n in mended.counts.items()}}
    return Outcome(clean.rows, bad.tally, summary, tuple(each for each in findings if each.failed), tuple(f.name for f in files))


@dataclass(frozen=True)
class _Counts:
    """Rows of one data set."""

    rows_in: int
    kept: int
    quarantined: int


class _Unreadable:
    """Rows that no record was made of: counted by their code, and written."""

    def __init__(self, name: str, quarantine: TableFile) -> None:
        self._name, self._quarantine, self._held = name, quarantine, list[BadRow]()
        self.tally, self.rows = Tallied(), 0

    def take(self, bad: BadRow) -> None:
        self.rows += 1
        self.tally.add(bad.code, [f"{bad.file}:{bad.row}"], words=bad.reason)
        self._held.append(bad)

    def write(self) -> None:
        """Write those that are held."""
        rows = [
            {"source": self._name, "file": b.file, "row": b.row, "reasons": [b.reason], "values": b.value} for b in self._held
        ]
        self._held.clear()
        if rows:
            self._quarantine.write(pl.DataFrame(rows, schema=QUARANTINE))


@dataclass
class _Written:
    """What was seen of the rows while they were written."""

    hits: Tallied
    lengths: Lengths
    held: int = 0
    """Rows kept in the split `holdout`."""


def _write(name: str, passes: Passes, mixture: Mixture, clean: TableFile, quarantine: TableFile) -> _Written:
    """Write what is kept and what is not, and count both."""
    seen = _Written(Tallied(), Lengths([*lengths_of([*KINDS[name].columns])]))
    schema = CLEAN[name].to_schema()
    for part in passes.decided(mixture.drawn):
        kept = schema.validate(part.clean, lazy=True)
        clean.write(kept)
        quarantine.write(part.dropped.with_columns(source=pl.lit(name)))
        seen.hits.add_hits(part.hits, part.rows)
        seen.lengths.add(part.lengths)
        seen.held += int((kept["split"] == "holdout").sum())
    return seen


def _findings(
    checks: Sequence[RowCheck], written: _Written, reasons: Tallied, limits: Checks, counts: _Counts
) -> list[Finding]:  # fmt: skip
    """How every check went; `reasons`, of the rows that could not be read, is told of those that checks drop too."""
    rows_in = counts.rows_in
    found = [Finding(code, "drop", n, n / rows_in, examples=reasons.places(code)) for code, n in reasons.counts.items()]
    found += [finding(check, written.hits, limits, rows_in) for check in checks]
    reasons.merge(written.hits, [check.name for check in checks if check.severity == "drop"])
    return [*found, _drop_rate(counts, reasons, limits), *written.lengths.findings(limits)]


def _drop_rate(counts: _Counts, reasons: Tallied, limits: Checks) -> Finding:
    share = counts.quarantined / max(counts.rows_in, 1)
    failed = share > limits.max_drop_rate and "max_drop_rate" not in limits.waive
    severity: Severity = "warn" if "max_drop_rate" in limits.waive else "fail"
    places = dict.fromkeys(place for code, _ in reasons.counts.most_common() for place in reasons.places(code))
    examples = tuple(places)[:EXAMPLES]  # a row that is dropped for two reasons once
    return Finding("max_drop_rate", severity, counts.quarantined, share, limits.max_drop_rate, failed, examples)


def _summary(counts: _Counts, written: _Written, findings: list[Finding]) -> dict[str, Any]:
    longer = {f.check: f.share for f in findings}.get("length_bias")
    return {
        "rows_in": counts.rows_in,
        "kept": counts.kept,
        "quarantined": counts.quarantined,
        "train": counts.kept - written.held,
        "holdout": written.held,
        **({} if longer is None else {"chosen_longer": longer}),
        "checks": [finding.as_row() for finding in findings],
        "length_histogram": written.lengths.histogram(),
    }


def empty_splits(summary: Mapping[str, Any]) -> list[str]:
    """A sentence for each split that no row is in, which a run refuses."""
    empty = [split for split in ("train", "holdout") if summary["kept"] and not summary[split]]
    return [
        f"no row is in the split {each}, and a run needs some: change data.holdout, or the splits in the data" for each in empty
    ]


def _warn_waived(name: str, findings: list[Finding], limits: Checks) -> None:
    reasons = {str(check): reason for check, reason in limits.waive.items()}
    for each in findings:
        if each.kind in reasons and each.limit is not None and each.share > each.limit:
            log.warning("%s: %s is %.2f%%, waived: %s", name, each.check, 100 * each.share, reasons[each.kind])
