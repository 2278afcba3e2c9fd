"""What a person reads while stages run: in a file or a pipe, and in a terminal."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

import flows.live as live
from flows.live import TerminalProgress, rate
from posttrain.runtime.progress import counted, reporting, working


@pytest.fixture
def written():
    """A console that is no terminal, as a pair with the text that it has printed."""
    text = io.StringIO()
    return Console(file=text, force_terminal=False, width=40), text


def lines(text: io.StringIO) -> list[str]:
    """What was printed, without the times."""
    return [re.sub(r"\d+:\d\d:\d\d", "T", line) for line in text.getvalue().splitlines()]


def wait_for(text: io.StringIO, count: int) -> None:
    end = time.monotonic() + 20
    while len(lines(text)) < count:
        assert time.monotonic() < end, text.getvalue()
        time.sleep(0.01)


def test_silence_is_broken_by_where_the_work_is_although_nothing_is_reported(written):
    """The state is the last one that was reported; no piece of work is a second old, so that nothing else is said."""
    console, text = written
    with TerminalProgress(console, silence=0.2) as progress:
        progress.start("align", 0)
        progress.start("align training", 82)
        progress.advance(36, {})
        time.sleep(0.02)
        progress.advance(37, {"loss": 0.67123, "unknown": 1.0})
        wait_for(text, 2)
    first, second = lines(text)[:2]
    assert re.fullmatch(r"\[T\] align training 37 of 82, [\d.]+/s, T left, loss 0\.6712", first)
    assert re.fullmatch(r"\[T\] align training 37 of 82, [\d.]+/s, T left, loss 0\.6712", second)


def test_silence_between_stages_is_broken_too(written):
    console, text = written
    with TerminalProgress(console, silence=0.1):
        wait_for(text, 1)
    assert lines(text)[0] == "[T] between stages"


def test_no_silence_is_longer_than_half_a_minute():
    assert TerminalProgress(Console(file=io.StringIO())).silence == 30


def test_short_work_prints_its_end_alone_and_short_work_of_unknown_length_nothing(written):
    console, text = written
    with TerminalProgress(console) as progress, reporting(progress), working("evaluate"):
        with working("loading model"):
            pass
        count = counted(progress, "evaluate base", 1200)
        count(1000)
        count(200)
    assert lines(text) == ["[T] evaluate base 1,200 of 1,200 in T"]


def test_work_is_announced_after_a_while_and_again_with_its_first_numbers(written, monkeypatch):
    console, text = written
    monkeypatch.setattr(live, "SHORT_SECONDS", 0.1)
    with TerminalProgress(console) as progress:
        progress.start("sft", 0)
        progress.start("sft training", 3)
        wait_for(text, 1)
        progress.advance(1, {"loss": 2.0})
        wait_for(text, 2)
        progress.advance(2, {"loss": 1.0})
        time.sleep(0.3)
        progress.end("sft training")
    assert lines(text) == [
        "[T] sft training 0 of 3", "[T] sft training 1 of 3, loss 2.0000", "[T] sft training 2 of 3 in T, loss 1.0000"
    ]  # fmt: skip


def test_what_comes_in_every_round_of_training_is_not_announced(written, monkeypatch):
    """It is named where the work is asked for, beside the step that it belongs to."""
    console, text = written
    monkeypatch.setattr(live, "SHORT_SECONDS", 0.01)
    progress = TerminalProgress(console)
    for what, total in (("align", 0), ("align training", 40), ("responses", 64)):
        progress.start(what, total)
    progress.advance(12, {})
    assert progress.where() == "align training 0 of 40 > responses 12 of 64"
    time.sleep(0.05)
    progress.end("responses")
    assert lines(text) == []
    progress.end("align training")
    assert len(lines(text)) == 1


def test_a_failed_stage_ends_with_what_is_inside_it_and_an_interrupted_one_stays(written):
    console, _ = written
    progress = TerminalProgress(console)

    def fail(error: type[BaseException]) -> None:
        with reporting(progress), working("align"):
            progress.start("reference", 5)
            raise error

    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError)
    assert progress.where() == "between stages"
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt)
    assert progress.where() == "align > reference 0 of 5"


def test_a_note_is_printed_as_it_is(written):
    console, text = written
    TerminalProgress(console).note("[bold] of 12 rows in a line that is longer than forty columns")
    assert lines(text) == ["[bold] of 12 rows in a line that is longer than forty columns"]


@pytest.mark.parametrize(
    ("gap", "units", "expected"), [(0.1, 123, "1,230/s"), (1.0, 2, "2.0/s"), (2.0, 1, "2.0 s each"), (45.0, 1, "45 s each")]
)
def test_rates(gap, units, expected, monkeypatch):
    """`units` in `gap` seconds; what a resumed run had done before (500) does not count."""
    progress, now = TerminalProgress(Console(file=io.StringIO())), [0.0]
    progress.bars.get_time = lambda: now[0]
    progress.start("sft training", 1000)
    progress.advance(500, {})
    assert rate(progress.work[-1]) == ""
    now[0] += gap
    progress.advance(500 + units, {})
    assert rate(progress.work[-1]) == expected


def test_a_terminal_shows_a_bar_with_rate_and_time_left_and_keeps_a_line():
    text = io.StringIO()
    with TerminalProgress(Console(file=text, force_terminal=True, width=160)) as progress:
        progress.start("reference", 8)
        progress.advance(2, {})
        time.sleep(0.05)
        progress.advance(4, {})
        progress.bars.refresh()
        progress.end("reference")
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text.getvalue())
    assert re.search(r"reference .*4/8 +[\d.]+/s +0:00:00 +0:00:\d\d", shown)
    assert "reference 4 of 8 in 0:00:00" in shown
