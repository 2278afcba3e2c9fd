"""Thresholds of the data contracts: what each check may find before a row, or a whole data set, is refused."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from schemas.base import Frozen
from schemas.fields import Share
from schemas.sources import Sources

Adjustable = Literal[
    "assistant_first", "contaminated", "duplicate_prompt", "fine_marks", "language", "marker", "near_prompt", "personal",
    "prompt_repeated", "script", "template_token", "unknown_split",
]  # fmt: skip
"""Checks whose severity a recipe may choose: rows that they find can be trained on."""
Limited = Literal[
    "prompt_mismatch", "conflict", "reversed_scores", "length_bias", "one_label", "max_drop_rate",
    "assistant_first", "contaminated", "duplicate_prompt", "fine_marks", "language", "marker", "near_prompt", "personal",
    "prompt_repeated", "script", "template_token", "unknown_split",
]  # fmt: skip
"""Checks by which a data set as a whole may fail."""
Repair = Literal["strip_zero_width", "strip_template_tokens", "strip_prompt_prefix", "redact_personal"]
PersonalKind = Literal["email", "ip", "phone", "card", "iban", "secret"]
Reason = Annotated[str, Field(min_length=3, max_length=500)]
UNSAID: Final = "no reason given"


def _reasons(value: Any) -> Any:
    """A list of checks waives them without a reason."""
    return dict.fromkeys(value, UNSAID) if isinstance(value, list | tuple) else value


class Checks(Frozen):
    """Thresholds of the data contracts; shares are of the rows read. `posttrain validate --explain checks` describes all."""

    max_drop_rate: Share = 0.2
    """Fail when more than this share of rows is quarantined in all."""
    prompt_mismatch_fail: Share = 0.01
    """Fail when more than this share has two different prompts."""
    several_turns: bool = False
    """Keep pairs whose sides go on with the user after their first answers differ; only the assistant's turns are trained on.
    Sides that call tools before they answer are kept in either case."""
    conflict_fail: Share = 0.01
    """Fail when more than this share says A>B and B>A for one prompt, or has one answer with both labels."""
    reversed_scores_fail: Share = 0.005
    """Fail when more than this share has scores against its label."""
    length_bias_warn: Share = 0.65
    """Warn when P(chosen is longer) is above this or below one minus this, or the area under the ROC curve by which lengths alone
    tell good answers from the others."""
    length_bias_fail: Share = 0.85
    """Fail when one of the two is above this or below one minus this."""
    prompt_repeated_fail: Share = 0.3
    """Fail when more than this share of answers on one side repeats its prompt."""
    near_prompt: Share = 0.8
    """Jaccard index of the words' 5-grams from which a training prompt repeats a held-out one; `severity: {near_prompt: off}`."""
    languages: tuple[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], ...] = ()
    """ISO 639 codes that prompts and answers may be in; with `severity.language` and no code, all parts of a row in one language.
    Needs the extra `text`."""
    personal: tuple[PersonalKind, ...] = ("email", "ip", "phone", "card", "iban", "secret")
    """Kinds of personal data that `severity.personal` and `repair: [redact_personal]` look for; phone needs the extra `text`."""
    decontaminate: Sources | None = None
    """Evaluation sets: rows with a run of 13 words of one of their texts, or a whole text of 8 to 12, are dropped."""
    severity: dict[Adjustable, Literal["off", "warn", "drop"]] = Field(default={})
    """What a check does with a row, where the recipe wants it otherwise; `personal` and `language` are off unless asked for."""
    fail_above: dict[Adjustable, Share] = Field(default={})
    """Share of rows above which a check fails the data set."""
    repair: tuple[Repair, ...] = ()
    """What is mended before rows are checked, in this order."""
    waive: Annotated[dict[Limited, Reason], BeforeValidator(_reasons)] = Field(default={})
    """Checks whose failure of the whole data set is turned into a warning, each with the reason, which lineage keeps."""
    incomplete: Literal["refuse", "keep"] = "refuse"
    """What to do with a file that is damaged or breaks off, as half a download does: `keep` reads the rows before the break.
    Documents of a corpus are refused in either case."""

    def __hash__(self) -> int:
        """A recipe is a key of caches, and mappings have no hash of their own."""
        return hash(repr(self))
