"""What is made of whole columns, and of which columns nothing is made: those go row by row, where more is known of them."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from posttrain.data.usual_columns import TALK, TEXT, conversation, pair
from posttrain.text.kernels import transcripts

Message = dict[str, str | None]
SIDES = ("chosen", "rejected")


def said(*turns: str | None, first: str = "user") -> list[Message]:
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[at % 2], "content": turn} for at, turn in enumerate(turns)]


def hh(*turns: str) -> str:
    return "".join(f"\n\n{'Assistant' if at % 2 else 'Human'}: {turn}" for at, turn in enumerate(turns))


def contents(column: Any) -> list[list[str]]:
    return [[message["content"] for message in talk] for talk in pl.Series(column).to_list()]


def talks(*rows: list[Message] | None) -> pa.Array:
    return pa.array(rows, TALK)


def texts(*rows: str | None) -> pa.Array:
    return pa.array(rows, TEXT)


TALKS = {"chosen": talks(said("q", "a")), "rejected": talks(said("q", "b"))}
TEXTS = {"chosen": texts(hh("q", "a")), "rejected": texts(hh("q", "b"))}


@pytest.mark.parametrize(
    ("prompt", "given"),
    [
        ("prompt", TEXTS | {"prompt": talks(said("q"))}),  # the sides' own turns are not all that is asked
        ("prompt", TALKS | {"prompt": talks(said("q"))}),
        ("", TALKS | {"chosen": TEXTS["chosen"]}),
        ("", TALKS | {"rejected": TEXTS["rejected"]}),
    ],
)
def test_nothing_is_made_of_columns_of_other_types(prompt: str, given: dict[str, pa.Array]) -> None:
    assert pair(prompt)(given) is None
    assert conversation("chosen")(TEXTS) is None


@pytest.mark.parametrize("given", [TEXTS, TALKS])
def test_sides_that_carry_their_prompt(given: dict[str, pa.Array]) -> None:
    made = pair("")(given)
    assert made
    assert made[0].tolist() == [True]
    assert {name: contents(column) for name, column in made[1].items()} == {
        "prompt": [["q"]], "chosen": [["a"]], "rejected": [["b"]],
    }  # fmt: skip


@pytest.mark.parametrize("turns", [1, 2, 7])
def test_there_is_room_for_the_shortest_turns(turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled loop writes behind the end of a short array without a word. Turns that say nothing are closest to each other."""
    rooms: list[int] = []
    real = transcripts.pairs

    def measured(*given: Any) -> int:
        rooms.extend(len(each) for each in given[7:10])
        return int(real(*given))

    monkeypatch.setattr(transcripts, "pairs", measured)
    made = pair("")({side: texts("\n\nHuman:" * turns) for side in SIDES})
    assert made
    assert made[0].tolist() == [False]
    assert min(rooms) >= turns
