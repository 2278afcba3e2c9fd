"""Rows that encoding leaves out, since they do not fit or the chat template refuses them: why, how many, and when too many."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from schemas.data import Checks
from schemas.errors import Refusal

NUMBER = re.compile(r"\b\d+(?= tokens)|(?<=cut to )\d+")


def reasons_of(left_out: Iterable[tuple[int, str]]) -> dict[str, int]:
    """Rows by reason, the most frequent first; how long each row is in particular is left aside."""
    return dict(Counter(NUMBER.sub("N", reason) for _, reason in left_out).most_common())


def refuse_left_out(
    reasons: Mapping[str, int], rows: int, field: str, section: str, checks: Checks, predicted: str = "", remedy: str = ""
) -> None:
    """Refuse training on the rest where more than `data.checks.max_drop_rate` of the rows would be left out, unless it is waived.

    Args:
        reasons: rows left out by reason.
        rows: all rows, those left out among them.
        field: of the data, such as `data.preferences`.
        section: of the recipe that says how rows are encoded.
        checks: the recipe's.
        predicted: where the counts come from, unless from all rows.
        remedy: what to do, unless rows are too long.
    """
    count = sum(reasons.values())
    if not rows or count <= checks.max_drop_rate * rows or "max_drop_rate" in checks.waive:
        return
    said = "; ".join(f"{reason}: {n:,}" for reason, n in reasons.items())
    raise Refusal(
        where=field,
        found=f"{count:,} of {rows:,} training rows ({count / rows:.0%}) that {section} cannot encode{predicted} ({said})",
        allowed=f"at most {checks.max_drop_rate:.0%} (data.checks.max_drop_rate)",
        remedy=f"{remedy or f'raise {section}.max_length, set {section}.overlong=truncate'}, correct the rows, or waive it: "
        "data.checks.waive: {max_drop_rate: REASON}",
    )
