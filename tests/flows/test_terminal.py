"""Names that others chose are shown as they are: no markup, no escape sequence, no turned text."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from flows.console import show_report
from flows.live import TerminalProgress
from flows.terminal import PlainConsole
from schemas.results import GateReport, ModelReport, RunReport, StageReport

EVIL = "a[/]\x1b[2J\u202eb[red]c :smile:"
SHOWN = r"a[/]\x1b[2J\u202eb[red]c :smile:"


def written(show) -> str:
    stream = io.StringIO()
    show(PlainConsole(file=stream, force_terminal=True, width=200, color_system=None))
    return stream.getvalue()


def table(console: PlainConsole) -> None:
    found = Table(EVIL, title=EVIL)
    found.add_row(EVIL)
    console.print(found)


def progress(console: PlainConsole) -> None:
    bars = TerminalProgress(console)
    bars.start(EVIL, 2)
    bars.note(EVIL)
    console.print(bars.bars)
    bars.advance(2, {})
    bars.end(EVIL)


def report(console: PlainConsole) -> None:
    stage = StageReport(name=EVIL, key="k", reused=False, seconds=1, metrics={}, outputs={"version": EVIL, "alias": EVIL})
    show_report(
        RunReport(
            run_id=EVIL, seconds=1, stages=(stage,), promotion=EVIL, report=Path(f"/{EVIL}"), warnings=(EVIL,),
            gates=(GateReport(name=EVIL, value=1, interval=None, limit={EVIL: 1.0}, passed=True),),
            model=ModelReport(name="m", version="1", alias=None, uri=EVIL, tracking_uri=EVIL),
        ),
        console,
    )  # fmt: skip


@pytest.mark.parametrize("show", [table, progress, report])
def test_names_of_others_neither_steer_the_terminal_nor_end_the_run(show):
    """rich's own sequences (hiding the cursor, say) stay; `\x1b[2J` is none of them."""
    text = written(show)
    assert SHOWN in text
    assert "\x1b[2J" not in text
    assert "\u202e" not in text


def test_what_is_ours_keeps_its_style():
    stream = io.StringIO()
    PlainConsole(file=stream, force_terminal=True, color_system="standard").print(Text("passed", "green"))
    assert "\x1b[32mpassed" in stream.getvalue()
