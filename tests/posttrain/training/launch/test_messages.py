"""What crosses from the processes that train to the one that launched them."""

from __future__ import annotations

import pytest

from posttrain.training.launch.messages import WrittenProgress, describe, exception_of, growing_lines
from posttrain.training.nonfinite import TrainingDiverged
from schemas.errors import Refusal


class Picky(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, *, reason: str) -> None:
        super().__init__(reason)


def raised(error: Exception) -> Exception:
    """The error with the traceback of this line."""
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        Refusal(where="sft.peft", found="this", allowed="that", remedy="do so"),
        TrainingDiverged("3 steps"),
        KeyError("name"),
        FileNotFoundError(2, "No such file", "a.txt"),
        ZeroDivisionError(),
    ],
)
def test_an_exception_arrives_as_the_same(error):
    arrived = exception_of(describe(raised(error)))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived).keys() - {"__notes__"} == vars(error).keys() - {"__notes__"}
    assert "test_messages.py" in arrived.__notes__[0]


def test_arguments_that_are_no_plain_values_arrive_as_text():
    assert str(exception_of(describe(ValueError({"a": 1})))) == "{'a': 1}"


@pytest.mark.parametrize("error", [Picky(reason="too hot"), type("Local", (Exception,), {})("too hot")])
def test_an_exception_that_cannot_be_made_again_keeps_its_name_and_text(error):
    arrived = exception_of(describe(error))
    assert type(arrived) is RuntimeError
    assert str(arrived) == f"{type(error).__name__}: too hot"


def test_progress_is_written_as_calls_and_read_while_it_grows(tmp_path):
    path = tmp_path / "progress.jsonl"
    lines, written = growing_lines(path), WrittenProgress(path)
    assert next(lines) is None
    written.start("sft", 3)
    written.advance(1, {"loss": 2.5})
    assert [next(lines), next(lines), next(lines)] == ['["start", "sft", 3]\n', '["advance", 1, {"loss": 2.5}]\n', None]
    with path.open("a") as stream:
        stream.write('["note", "h')
        stream.flush()
        assert next(lines) is None
        stream.write('alf"]\n')
    assert next(lines) == '["note", "half"]\n'
    written.end("sft")
    assert next(lines) == '["end", "sft"]\n'
