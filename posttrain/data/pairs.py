"""Shapes of rows that name the better answer themselves: `chosen` and `rejected` under their many names."""

from __future__ import annotations

import sys
from decimal import Decimal
from typing import Any, Final

from posttrain.data.columns import EMPTY
from posttrain.data.context import with_tools
from posttrain.data.messages import Message, WrongType, as_prompt, is_transcript, kind, messages, text, turns_of, written
from posttrain.data.shapes import Build, Record, Shape
from posttrain.data.usual import usual_pair, usual_share_gpt
from posttrain.data.usual_columns import pair as pair_columns
from schemas.reading import Reading

SCORES: Final = {
    side: (
        f"score_{side}", f"{side}_score", f"{side}_rating", f"{side}_avg_rating", f"{side}-rating", f"{side}_reward",
        f"reward_{side}", f"rating_{side}",
    )
    for side in ("chosen", "rejected")
}  # fmt: skip
"""What data sets call the score of a side, by preference."""
_NAMES: Final = frozenset(name for names in SCORES.values() for name in names)
_NO_SCORES: Final = dict.fromkeys(("score_chosen", "score_rejected"))
# Alpaca's words for an instruction without input, and what tables of text have in the place of an empty list.
NO_INPUT: Final = frozenset({"", "noinput", "<noinput>", "no input", "<no input>", "n/a", "none", "nan", "[]"})
NO_SCORE: Final = frozenset({"", "n/a", "na", "none", "null", "-"})  # text in the place of a score that nobody gave
LARGEST: Final = sys.float_info.max  # of a score; a whole number may be larger
QUOTED: Final = 20  # characters from which a prompt at the start of both answers is no coincidence
MARKED: Final = f"{{count}} pairs have scores under several names that differ: the first of {', '.join(SCORES['chosen'])} counts"
STRIPPED: Final = "the prompt was cut off the start of both answers of {count} pairs, which repeat it"


def pair(prompt: object, chosen: Any, rejected: Any) -> Record:
    """The normal form of one pair.

    The longest common prefix of *messages* moves to the prompt; characters never do, so that two answers which start alike stay
    whole. What is left of a side is one message where both sides answer the same prompt; more means that their prompts differ.
    Where both sides are the text of the prompt with an answer behind it, the text is cut off both.

    Raises:
        WrongType: when a value is neither text nor messages, or there is no prompt at all.
    """
    asked = as_prompt(prompt)
    if cut := _repeated(prompt, chosen, rejected):
        chosen, rejected = chosen[cut:], rejected[cut:]
    sides = answer(chosen, asked, "chosen"), answer(rejected, asked, "rejected")
    carried = any(side and side[0]["role"] != "assistant" for side in sides)  # a side repeats its own prompt
    if carried and (isinstance(prompt, str) or all(side[: len(asked)] == asked for side in sides)):
        asked = []
    shared = _shared(*sides) if len(sides[0]) > 1 < len(sides[1]) else 0
    record: Record = {"prompt": asked + sides[0][:shared], "chosen": sides[0][shared:], "rejected": sides[1][shared:]}
    return record | ({"note": STRIPPED} if cut else {})


def _repeated(prompt: object, *sides: Any) -> int:
    """Characters of the prompt with which both sides begin, before something else: 0 where they do not."""
    if not isinstance(prompt, str) or not all(isinstance(side, str) and side.startswith(prompt) for side in sides):
        return 0
    if len(prompt.strip()) < QUOTED or is_transcript(prompt):
        return 0
    whole = all(side[len(prompt) :].strip() for side in sides)
    return len(prompt) if whole else 0


def answer(value: object, asked: list[Message], field: str) -> list[Message]:
    """The messages of a side, or of a completion.

    Text is a transcript only where it repeats the prompt or there is none, or where it is nothing but one turn of the assistant:
    a dialogue that a prompt asked for is text.
    """
    if isinstance(value, list):
        return messages(value, "assistant", field)
    value = written(value, field)
    if asked and isinstance(value, str) and is_transcript(value):
        turns = turns_of(value)
        repeats = turns[: len(asked)] == asked
        alone = len(turns) == 1 and turns[0]["role"] == "assistant"
        return turns if repeats or alone else [{"role": "assistant", "content": value}]
    return messages(value, "assistant", field)


def _shared(chosen: list[Message], rejected: list[Message]) -> int:
    """Length of the common prefix that leaves each side its last message."""
    most = min(len(chosen), len(rejected)) - 1
    return next((at for at in range(most) if chosen[at] != rejected[at]), most)


def score(row: dict[str, Any], *names: str) -> float | None:
    """The first of the named columns that is neither null nor NaN; text that is a number is the number.

    Raises:
        WrongType: when it is not a finite number.
    """
    for name in names:
        value = row.get(name)
        if isinstance(value, Decimal):
            value = float(value)
        if isinstance(value, str):
            value = _number(value, name)
        if value is None or value != value:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST:
            raise WrongType(f"`{name}` is {kind(value)}, not a finite number")
        return float(value)
    return None


def _number(value: str, name: str) -> float | None:
    if value.strip().lower() in NO_SCORE:
        return None
    try:
        return float(value)
    except ValueError:
        raise WrongType(f"`{name}` is text, not a finite number") from None


def instructed(row: dict[str, Any], *about: str) -> object:
    """Alpaca's instruction with what it is about, which stands in the first of these columns that holds something."""
    asked = written(row.get("instruction"), "instruction")
    more, given = next(((name, row[name]) for name in about or ("input",) if row.get(name) not in EMPTY), ("input", None))
    given = written(given, more)
    text(asked, "instruction")
    if given is None or (isinstance(given, str) and given.strip().lower() in NO_INPUT):
        return asked
    return f"{asked}\n\n{text(given, more)}" if asked else text(given, more)


def scores(row: dict[str, Any]) -> dict[str, Any]:
    """Both sides' scores under whatever name; and a note where a side has several that differ."""
    if _NAMES.isdisjoint(row):
        return dict(_NO_SCORES)
    found: dict[str, Any] = {f"score_{side}": score(row, *names) for side, names in SCORES.items()}
    return found | ({"note": MARKED} if any(len(_given(row, names)) > 1 for names in SCORES.values()) else {})


def _given(row: dict[str, Any], names: tuple[str, ...]) -> set[float]:
    """The different scores of a side that is scored under several names."""
    there = [name for name in names if row.get(name) is not None]
    return {value for name in there if (value := score(row, name)) is not None} if len(there) > 1 else set()


def several(prompt: object, chosen: object, rejected: object) -> list[Record]:
    """One pair, or as many as the longer side has answers where a side is a list of texts; the shorter starts again."""
    if not isinstance(chosen, list) and not isinstance(rejected, list):
        return [pair(prompt, chosen, rejected)]
    good, bad = _answers(chosen), _answers(rejected)
    if not good or not bad:
        return [pair(prompt, None if not good else good[0], None if not bad else bad[0])]
    count = max(len(good), len(bad))
    return [pair(prompt, good[at % len(good)], bad[at % len(bad)]) for at in range(count)]


def _answers(side: object) -> list[Any]:
    """The answers of a side: a list of texts, or of lists of messages, is several; null is none of them."""
    if isinstance(side, list) and all(type(each) is str or type(each) is list or each is None for each in side):
        return [each for each in side if each is not None]
    return [side]


def _paired(prompt: str) -> Build:
    """Rows with `chosen` and `rejected`; `prompt` is the column of the prompt, empty where the sides carry it."""

    def build(row: dict[str, Any], reading: Reading) -> list[Record]:
        asked = instructed(row) if prompt == "instruction" else row.get(prompt)
        if prompt == "conversations" and (found := as_prompt(asked, prompt)):
            asked = found[:-1] if found[-1]["role"] == "assistant" else found  # some repeat the chosen answer there
        marks, made = scores(row), several(asked, row["chosen"], row["rejected"])
        alone = not asked and any(
            not record["prompt"] and len(record["chosen"]) == len(record["rejected"]) == 1 for record in made
        )
        if alone and "prompt" not in row:  # where it is null, the contract says so
            missing = "there is no prompt, neither as a column nor in front of the answers: name its column `prompt` in `columns`"
            raise WrongType(missing, "missing_prompt")
        return [marks | record for record in made]

    return build


def _swift(row: dict[str, Any], reading: Reading) -> Record:
    """The last turn of `messages` is chosen."""
    whole = messages(row["messages"], "user", "messages")
    if not whole or whole[-1]["role"] != "assistant":
        raise WrongType("`messages` does not end with an answer of the assistant")
    rejected = answer(row["rejected_response"], whole[:-1], "rejected_response")
    return {"prompt": whole[:-1], "chosen": whole[-1:], "rejected": rejected, **scores(row)}


def _swift_messages(row: dict[str, Any], reading: Reading) -> Record:
    """Two whole conversations."""
    sides = (messages(row[name], "user", name) for name in ("messages", "rejected_messages"))
    return pair(None, *sides) | scores(row)


def _openai(row: dict[str, Any], reading: Reading) -> Record:
    """Fine-tuning by preference as OpenAI's API takes it: the prompt and its tools are in `input`."""
    given = row["input"]
    if not isinstance(given, dict):
        raise WrongType(f"`input` is {kind(given)}, not an object with `messages`")
    made = pair(messages(given.get("messages"), "user", "input.messages"), row["preferred_output"], row["non_preferred_output"])
    return made | {"prompt": with_tools(made["prompt"], given.get("tools"))}


def _plain(prompt: str) -> dict[str, tuple[str, str]]:
    return {"prompt": ("user", prompt), **{side: ("assistant", side) for side in _SIDES}}


_SIDES: Final = ("chosen", "rejected")
_MARKS: Final = (*SCORES["chosen"], *SCORES["rejected"])
_PROMPT: Final = "prompt|query|problem|context|input"
_TEXTS: Final = "text or messages, as JSON too; a list of texts is one pair each"
PAIRS: Final = (
    Shape("ms-swift", ("messages", "rejected_response"), _swift, _MARKS,
          "all messages but the last; the last; rejected_response"),
    Shape("ms-swift, messages", ("messages", "rejected_messages"), _swift_messages, _MARKS,
          "the turns that both share; the rest of messages; that of rejected_messages"),
    Shape("OpenAI preference", ("input", "preferred_output", "non_preferred_output"), _openai, (),
          "input.messages with input.tools; the two outputs"),
    Shape("TRL, explicit prompt", ("prompt", *_SIDES), _paired("prompt"), _MARKS, f"prompt; chosen; rejected ({_TEXTS})",
          plain=_plain("prompt"), usual=usual_pair("prompt"), columnar=pair_columns("prompt")),
    Shape("Orca", ("question", *_SIDES), _paired("question"), _MARKS, "question; chosen; rejected", plain=_plain("question"),
          usual=usual_pair("question"), columnar=pair_columns("question")),
    Shape("Alpaca DPO", ("instruction", *_SIDES), _paired("instruction"), ("input", *_MARKS),
          "instruction and input; chosen; rejected", plain=_plain("instruction")),
    Shape("ShareGPT DPO", ("conversations|messages", *_SIDES), _paired("conversations"), _MARKS,
          "the conversation; the two sides, of one message each", usual=usual_share_gpt),
    Shape("prompt by another name", (_PROMPT, *_SIDES), _paired("prompt"), _MARKS, "that column; chosen; rejected",
          plain=_plain("prompt"), usual=usual_pair("prompt"), columnar=pair_columns("prompt")),
    Shape("TRL, implicit prompt; HH", _SIDES, _paired(""), _MARKS, "the turns that both sides share; the rest of each",
          usual=usual_pair(""), columnar=pair_columns("")),
    Shape("Argilla, instruction", ("instruction", "chosen|chosen_response", "rejected|rejected_response"), _paired("instruction"),
          ("input", *_MARKS), "instruction and input; the two responses"),
    Shape("Argilla", (f"{_PROMPT}|question", "chosen|chosen_response", "rejected|rejected_response"), _paired("prompt"), _MARKS,
          "the prompt; the two responses"),
    Shape("ms-swift, query", ("query|prompt", "chosen|response", "rejected|rejected_response"), _paired("query"), _MARKS,
          "query; response; rejected_response"),
    Shape("Stack Exchange paired", ("question|prompt", "chosen|response_j", "rejected|response_k"), _paired("question"), _MARKS,
          "question; response_j; response_k"),
)  # fmt: skip
SOLUTIONS: Final = Shape(
    "solutions",
    (
        "prompt|problem|question|instruction",
        "chosen|right|correct|right_solutions|correct_solutions|right_answers|correct_answers",
        "rejected|wrong|incorrect|wrong_solutions|incorrect_solutions|wrong_answers|incorrect_answers",
    ),
    _paired("prompt"),
    _MARKS,
    "the prompt; one pair each, the shorter list from its start again",
)
