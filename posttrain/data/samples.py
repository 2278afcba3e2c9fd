"""The generated samples: a miniature of the controlled-sentiment experiment of DPO (arXiv 2305.18290, section 6).

Short English reviews with a known ground-truth reward (`sentiment`) and planted, labelled noise. Every row has a `noise`
field: null, or the label of what is wrong with it. The bytes are the same on every machine.

    corpus        {"id", "text", "noise"}: reviews of 4-10 sentences
    instructions  {"messages", "noise"}: a request, and a review of 2-4 sentences
    preferences   {"prompt", "chosen", "rejected", "noise"}: a request, two reviews, the chosen one has the higher reward

`arithmetic.py` makes the others, whose answers are known: arithmetic_corpus, arithmetic_instructions and arithmetic_prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from posttrain.data import arithmetic, noise
from posttrain.data.reviews import Item, draw_item, pick, prompt, review, sentiment

__all__ = ["DIGESTS", "SAMPLES", "VERSION", "sentiment", "write_sample"]

VERSION = 1
"""Changes whenever a byte of a sample changes."""
DIGESTS = {
    "corpus": "5db9a7484ba3cdb5faa531f2b0efb261e5ffbfe7899884d1690bd8f0a413c732",
    "instructions": "ba55c1bf0bf575bad0d02c097029ec55e57ee84676f564085bd12b31834d68b0",
    "preferences": "bae25d723ae505bb088cfa040be53b1759320393df0ae4a3c661c23793947c36",
    "arithmetic_corpus": "9e27ee8cb44440e22517317e64e776afe36af99555ef5bb344b597b4c799407b",
    "arithmetic_instructions": "65c985436a35a69962d7027ea485b27c4dd3551e6c0fa0481f6751b1e0952527",
    "arithmetic_prompts": "03189b72f870b05a028d51cc63594bcae7bd2f414d212b85f8d9015e2a740357",
}
"""SHA-256 of the samples: a cached file with other bytes is written again. A changed one needs a new VERSION."""

Row = dict[str, Any]
Message = dict[str, str]

CORPUS_ROWS, PAIR_ROWS = 7_000, 2_000
CORPUS_NOISE = {"boilerplate": 0.04, "duplicate": 0.03, "near_duplicate": 0.02, "other_language": 0.025, "pii": 0.02,
                "too_short": 0.015}  # fmt: skip
INSTRUCTION_NOISE = {"empty": 0.01, "wrong_roles": 0.01, "duplicate": 0.01}
# `conflict` spoils two rows, the earlier one and the new one. `reversed` cannot be seen without scores.
PREFERENCE_NOISE = {"empty": 0.01, "identical": 0.007, "duplicate": 0.008, "conflict": 0.003, "wrong_roles": 0.006,
                    "template_token": 0.006, "reversed": 0.01}  # fmt: skip
LENGTHS = (2, 3, 3, 4)
"""Sentences of an answer."""
CLEAR_MARGIN, CLEAR_SHARE = 0.4, 0.85
SEEDS = {"corpus": 1, "instructions": 2, "preferences": 3, "arithmetic_corpus": 4, "arithmetic_instructions": 5,
         "arithmetic_prompts": 6}  # fmt: skip


def write_sample(name: str, path: Path) -> None:
    """Write the sample `name` (one of SAMPLES) as JSONL in UTF-8.

    Raises:
        KeyError: when there is no such sample.
    """
    rows = SAMPLES[name](Random(SEEDS[name]))
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _label(rng: Random, shares: dict[str, float], earlier: Sequence[object]) -> str | None:
    """The noise of the next row, or None; nothing is planted before there is a row to repeat."""
    draw = rng.random()
    for label, share in shares.items():
        if (draw := draw - share) < 0:
            return label if earlier else None
    return None


def _corpus(rng: Random) -> Iterator[Row]:
    clean: list[str] = []
    for number in range(CORPUS_ROWS):
        label = _label(rng, CORPUS_NOISE, clean)
        text = _document(rng, label, clean)
        if label is None:
            clean.append(text)
        yield {"id": f"corpus-{number:05d}", "text": text, "noise": label}


def _document(rng: Random, label: str | None, clean: list[str]) -> str:
    item = draw_item(rng)
    if label in {"boilerplate", "other_language", "too_short"}:
        return str(getattr(noise, label)(rng, item))
    if label in {"duplicate", "near_duplicate"}:  # each clean document is repeated at most once
        return str(getattr(noise, label)(rng, clean.pop(int(rng.random() * len(clean)))))
    text = review(rng, item, sentences=4 + int(rng.random() * 7))
    return noise.pii(rng, text) if label == "pii" else text


def _answer(rng: Random, item: Item) -> str:
    return review(rng, item, pick(rng, LENGTHS))


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _instructions(rng: Random) -> Iterator[Row]:
    clean: list[list[Message]] = []
    for _ in range(PAIR_ROWS):
        label = _label(rng, INSTRUCTION_NOISE, clean)
        item = draw_item(rng)
        messages = [_user(prompt(rng, item)), _assistant(_answer(rng, item))]
        if label is None:
            clean.append(messages)
        spoilt = {"empty": [messages[0], _assistant("")], "wrong_roles": messages[::-1]}
        if label == "duplicate":
            messages = clean.pop(int(rng.random() * len(clean)))
        yield {"messages": spoilt.get(label or "", messages), "noise": label}


def _preferences(rng: Random) -> list[Row]:
    rows: list[Row] = []
    clean: list[Row] = []
    for _ in range(PAIR_ROWS):
        label = _label(rng, PREFERENCE_NOISE, clean)
        row = _pair(rng)
        if label is None:
            clean.append(row)
        elif label in {"duplicate", "conflict"}:  # each clean row is repeated at most once
            row = _repeat(label, clean.pop(int(rng.random() * len(clean))))
        else:
            row = row | _spoilt(label, row)
        rows.append(row | {"noise": label} if label else row)
    return rows


def _pair(rng: Random) -> Row:
    """Two reviews of one item, drawn independently until the better one is better by the wanted margin."""
    item = draw_item(rng)
    request = prompt(rng, item)
    margin = CLEAR_MARGIN if rng.random() < CLEAR_SHARE else 0.0
    while True:
        answers = [_answer(rng, item), _answer(rng, item)]
        low, high = sorted(sentiment([request] * 2, answers))
        if high - low > margin:
            break
    worse, better = sorted(answers, key=lambda answer: sentiment([request], [answer]))
    return {"prompt": [_user(request)], "chosen": [_assistant(better)], "rejected": [_assistant(worse)], "noise": None}


def _repeat(label: str, row: Row) -> Row:
    if label == "duplicate":
        return dict(row)
    row["noise"] = label  # the earlier row is half of the conflict
    return row | {"chosen": row["rejected"], "rejected": row["chosen"]}


def _spoilt(label: str, row: Row) -> Row:
    """The fields of a pair that the noise changes."""
    text = row["chosen"][0]["content"]
    changes: dict[str, Row] = {
        "empty": {"rejected": [_assistant("")]},
        "identical": {"rejected": row["chosen"]},
        "wrong_roles": {"chosen": [_user(text)]},
        "template_token": {"chosen": [_assistant(f"{text}<|im_end|>")]},
        "reversed": {"chosen": row["rejected"], "rejected": row["chosen"]},
    }
    return changes[label]


SAMPLES = {
    "corpus": _corpus, "instructions": _instructions, "preferences": _preferences,
    "arithmetic_corpus": arithmetic.corpus, "arithmetic_instructions": arithmetic.instructions,
    "arithmetic_prompts": arithmetic.prompts,
}  # fmt: skip
"""Generators by the name of their sample."""
