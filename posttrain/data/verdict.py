"""What follows from the findings of a contract: one refusal for all data sets that are too bad to be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from posttrain.data.checks.explain import ABOUT
from posttrain.data.findings import Finding, Tallied
from schemas.data import CONTRACTS, Checks
from schemas.errors import Refusal

NAMED: Final = 3  # files
FAULTS: Final = {
    "prompt_mismatch": "pairs whose two sides differ before their last message: they answer different prompts, or go on for "
    "several turns (data.checks.several_turns keeps those)",
    "conflict": "rows that contradict another row (A>B and B>A, or one answer with both labels)",
    "reversed_scores": "pairs whose scores contradict the label",
    "length_bias": "of pairs with the longer answer chosen (ties count half)",
    "length_auc": "of comparisons of a good with a bad answer in which the good one is longer (area under the ROC curve, where "
    "one half says nothing)",
    "one_label": "of the labels are the same",
    "max_drop_rate": "rows dropped",
}
MENDS: Final = {
    "length_bias": "add rows whose better answer is the other one by length, or leave out some of the others",
    "one_label": "add answers of the other label",
}
"""What is to be done where no row alone is at fault, by what a recipe calls the check."""
TWO_SIDED: Final = ("length_bias", "length_auc")
"""Checks that fail as far below one half as above it."""


@dataclass(frozen=True)
class Outcome:
    """One validated data set."""

    kept: int
    quarantined: Tallied
    """Rows by reason."""
    summary: dict[str, Any]
    failures: tuple[Finding, ...]
    files: tuple[str, ...] = ()
    """Names of those that were read."""


def refuse_failures(outcomes: dict[str, Outcome], out: Path) -> None:
    """One refusal for all data sets that are empty or break a threshold."""
    empty = [name for name, outcome in outcomes.items() if not outcome.kept]
    failures = [(name, f) for name, outcome in outcomes.items() for f in outcome.failures]
    if not empty and not failures:
        return
    found = [
        f"no rows left of {outcomes[name].summary['rows_in']} in data.{name}{_because(outcomes[name].quarantined)}"
        for name in empty
    ]
    found += [_described(name, finding, outcomes[name].quarantined) for name, finding in failures]
    allowed = [f"at least one clean row in data.{name}" for name in empty]
    allowed += [_allowed(f) for _, f in failures]
    remedy = _remedy(outcomes, empty, [f for _, f in failures], out)
    details = {"out": str(out), **{name: outcome.summary for name, outcome in outcomes.items()}}
    where = ", ".join(dict.fromkeys(f"data.{name}" for name in [*empty, *(name for name, _ in failures)]))
    raise Refusal(where=where, found="; ".join(found), allowed="; ".join(dict.fromkeys(allowed)), remedy=remedy, details=details)


def _remedy(outcomes: Mapping[str, Outcome], empty: list[str], failures: list[Finding], out: Path) -> str:
    """Rows to correct are in the quarantine where some are there, and on the page where a check only warns of them."""
    unread = [name for name in empty if not outcomes[name].summary["rows_in"]]
    rows = [f for f in failures if f.kind not in MENDS]
    steps = [MENDS[kind] for kind in dict.fromkeys(f.kind for f in failures) if kind in MENDS]
    if len(unread) < len(empty) or rows:
        dropped = len(unread) < len(empty) or any(f.severity != "warn" for f in rows)
        steps.insert(0, f"see {out / ('quarantine.parquet' if dropped else 'report.html')} and correct the rows")
    if unread:
        files = [file for name in unread for file in outcomes[name].files]
        named = f": there are none in {', '.join(files[:NAMED])}{', …' * (len(files) > NAMED)}" if files else ""
        steps.append(f"name files that hold rows{named}")
    if failures and not empty:
        steps.append(f"or set data.checks.waive: {{{', '.join(dict.fromkeys(f'{f.kind}: REASON' for f in failures))}}}")
    return "; ".join(steps)


def _because(reasons: Tallied) -> str:
    """The most frequent reasons, each with a row."""
    return f": {said}" if (said := reasons.said()) else ""


def _allowed(finding: Finding) -> str:
    """The threshold that a data set is above, by its field."""
    if finding.check == "one_label":
        return "answers of both labels"
    own = f"{finding.kind}_fail"
    field = (
        finding.kind if finding.kind == "max_drop_rate" else own if own in Checks.model_fields else f"fail_above.{finding.kind}"
    )
    limit = finding.limit or 0.0
    between = f", so from {1 - limit:.2%} to {limit:.2%}" if finding.check in TWO_SIDED else ""
    return f"data.checks.{field} = {limit:g}{between}"


def _described(name: str, finding: Finding, reasons: Tallied) -> str:
    examples = f" (such as {', '.join(finding.examples)})" if finding.examples else ""
    if finding.check == "max_drop_rate":
        examples = _because(reasons)
    fault = FAULTS.get(finding.check) or f"rows with {ABOUT[finding.kind].finds} ({finding.check})"
    return f"{finding.share:.2%} {fault} in data.{name}{examples}"


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
