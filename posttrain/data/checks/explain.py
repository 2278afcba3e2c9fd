"""Every check in words: what it finds, what follows, and which field of `data.checks` says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, get_args

from schemas.checks import Adjustable, Checks
from schemas.errors import Refusal, closest


@dataclass(frozen=True)
class About:
    """One check, or one for each side of a row."""

    finds: str
    follows: str
    field: str = ""
    """Its thresholds in `data.checks`, beside `severity` and `fail_above`."""
    mend: str = ""
    """The repair that is safe, or what to do about such rows."""


_DROPPED: Final = "the row is quarantined"
_WARNED: Final = "it is counted, and shown with examples"
ABOUT: Final[dict[str, About]] = {
    "empty_prompt": About("a prompt without messages, or with one that says nothing and calls no tool", _DROPPED),
    "empty": About("the same of an answer: `empty_chosen`, `empty_rejected`, `empty_completion`", _DROPPED),
    "roles": About("roles out of order: user and assistant take turns, a system message only comes first", _DROPPED),
    "identical": About("two sides that are equal but for case, white space and Unicode composition", _DROPPED),
    "duplicate": About("a row that came before in its split", f"{_DROPPED}; the first is kept"),
    "conflict": About(
        "A>B and B>A for one prompt, or one answer with both labels", "both rows are quarantined", "conflict_fail"
    ),
    "prompt_mismatch": About(
        "two sides that answer different prompts, or that go on with the user", _DROPPED, "prompt_mismatch_fail, several_turns",
        "several_turns: true keeps those that the assistant begins",
    ),
    "leaked_prompt": About("a training row whose prompt is held out, too (without its system message)", _DROPPED),
    "near_prompt": About(
        "a training row whose prompt nearly repeats a held-out one: Jaccard index of the words' 5-grams, of four or more",
        _DROPPED, "near_prompt", "severity: {near_prompt: warn} where all prompts come from one template",
    ),
    "duplicate_prompt": About("a prompt that came before in its split", _WARNED),
    "reversed_scores": About("scores that contradict which answer is chosen", _DROPPED, "reversed_scores_fail"),
    "tied_scores": About("two sides with the same score", _DROPPED),
    "fine_marks": About("a pair whose marks by aspect have another mean order than the score that made it", _WARNED),
    "one_label": About("feedback whose answers are all desirable, or all undesirable", "the data set fails"),
    "length_bias": About(
        "how often the chosen answer is the longer one, ties as one half", "it is told, and fails far from one half",
        "length_bias_warn, length_bias_fail",
    ),
    "length_auc": About(
        "how well the length of an answer alone tells good from bad ones (area under the ROC curve, over all answers)",
        "it is told, and fails far from one half, unless `length_bias` is waived", "length_bias_warn, length_bias_fail",
    ),
    "marker": About("a `Human:` or `Assistant:` inside a message", _WARNED),
    "template_token": About(
        "a token of a chat template, such as <|im_end|>, inside a message", _DROPPED, "", "strip_template_tokens cuts it off ends"
    ),
    "prompt_repeated": About(
        "an answer that contains the last message of its prompt, of 30 characters or more", _WARNED, "prompt_repeated_fail",
        "strip_prompt_prefix cuts it off the start",
    ),
    "script": About("parts of a row in different scripts, each of 20 letters or more", _WARNED),
    "language": About(
        "a part of a row in a language that `languages` does not name, or parts in different ones where it names none",
        "off unless `languages` or `severity` asks for it; then it is counted", "languages",
    ),
    "personal": About(
        "e-mail and IP addresses, phone, card and account numbers, keys and tokens", "off unless `severity` asks for it",
        "personal", "redact_personal puts placeholders such as [EMAIL] in their place",
    ),
    "contaminated": About(
        "a run of 13 words of an evaluation text, or a whole one of 8 to 12", f"with `decontaminate` {_DROPPED}", "decontaminate"
    ),
    "unknown_split": About("a name of a split that is not known", f"{_WARNED}; the row is held out by the hash of its prompt"),
    "assistant_first": About("a conversation that the assistant opens, which some chat templates refuse", _WARNED),
    "max_drop_rate": About("the share of rows that are quarantined in all", "the data set fails above it", "max_drop_rate"),
}  # fmt: skip
"""In the order in which the documentation lists them."""


def checks_table() -> str:
    """Markdown: all checks."""
    rows = [f"| `{name}` | {each.finds} | {each.follows} | {_fields(name, each)} | {each.mend} |" for name, each in ABOUT.items()]
    return "\n".join(["| check | finds | what follows | fields | repair |", "|---|---|---|---|---|", *rows]) + "\n"


def check_in_words(name: str) -> str:
    """One check.

    Raises:
        Refusal: when there is none of this name.
    """
    known = next((base for base in (name, *(name.removesuffix(f"_{side}") for side in _SIDES)) if base in ABOUT), None)
    if known is None:
        near = closest(name, ABOUT)
        raise Refusal(
            where="--explain",
            found=name,
            allowed=f"shapes, checks, or one of {', '.join(ABOUT)}",
            remedy=f"did you mean {near}?" if near else "posttrain validate --explain checks lists them",
        )
    each = ABOUT[known]
    defaults = [f"data.checks.{field} = {_value(field)}" for field in filter(None, each.field.split(", "))]
    adjusts = [f"data.checks.severity: {{{known}: off | warn | drop}}", f"data.checks.fail_above: {{{known}: SHARE}}"]
    lines = [f"finds: {each.finds}", f"then: {each.follows}", *defaults, *(adjusts if known in get_args(Adjustable) else [])]
    return "\n".join([known, *(f"  {line}" for line in (*lines, *([f"repair: {each.mend}"] if each.mend else [])))]) + "\n"


_SIDES: Final = ("chosen", "rejected", "completion", "prompt")


def _fields(name: str, each: About) -> str:
    adjustable = name in get_args(Adjustable)
    return ", ".join(f"`{field}`" for field in (*filter(None, each.field.split(", ")), *(["severity"] if adjustable else [])))


def _value(field: str) -> str:
    value = getattr(Checks(), field)
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else "none" if value is None else f"{value:g}"
