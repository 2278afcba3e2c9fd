"""Deployed runs under kills and outages: does each complete, to the weights of a run that nothing disturbed?

    python -m bench chaos --events 40 --seed 1 --out FOLDER

Prefect and MLflow on PostgreSQL where it is installed, a worker for each pool, a tiny recipe of which `sft`, `align` and
`register` are built anew in every run. A seeded dice says what is killed and in which stage; what is a service is away for some
seconds and is started again, as a supervisor would; a reconciler has chains start again that died. A run that does not complete
by itself is repeated. `FOLDER/hits.jsonl` has a line for each hit at once, `FOLDER/runs.jsonl` one for each run. What
`FOLDER/store` has finished before is not built again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import signal
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.chaos_checks import Checks
from bench.chaos_site import REBUILT, ChaosSite, chaos_site

TARGETS = {"chain": 2, "stage": 3, "cpu worker": 1, "gpu worker": 2, "Prefect": 2, "MLflow": 2, "PostgreSQL": 2}
"""What is hit, and how often as a weight."""
SIGNALS = {"chain": 2, "stage": 2, "cpu worker": 2, "gpu worker": 2, "Prefect": 2, "MLflow": 2, "PostgreSQL": 1}
"""For how many kinds of death the dice decides: kill -9 and SIGTERM, or kill -9 alone."""
AWAY_SECONDS, LATER_SECONDS = (5.0, 120.0), (0.0, 4.0)
"""How long a service is away, of which half are shorter than 25 s, and how long a hit comes after its stage was seen at work."""
BEGINNING, BEGINNING_SECONDS = "the beginning", (0.0, 25.0)
MOMENTS = {BEGINNING: 1, "sft": 2, "align": 3, "register": 2}
"""Where a run is when something is hit, in this order, and how often as a weight."""
RUN_SECONDS, REPETITIONS = 1500.0, 4


@dataclass
class Hit:
    """One thing that was done to a run."""

    target: str
    how: str
    """`KILL`, `TERM`."""
    away: float
    """Seconds until it was started again; 0 where nobody starts it again."""
    during: str
    """What ran then."""
    at: float = 0.0
    """Seconds after the start of the run."""


@dataclass
class Told:
    """One run and its repetitions."""

    number: int
    hits: list[Hit] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    """How the run and its repetitions ended."""
    seconds: float = 0.0
    ended: list[str] = field(default_factory=list)
    """Services that ended without being hit, and were started again."""
    wrong: list[str] = field(default_factory=list)
    """What a check has found; nothing where all is as it should be."""


def main(words: list[str]) -> None:
    """Disturb runs until enough was hit, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench chaos", description=__doc__)
    parser.add_argument("--events", type=int, default=40)
    parser.add_argument("--of-a-run", type=int, nargs=2, default=(2, 5), metavar=("LEAST", "MOST"), help="hits")
    parser.add_argument("--seconds", type=float, default=3600, help="start no further run after these")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(words)
    given.out.mkdir(parents=True, exist_ok=True)
    dice, began = random.Random(given.seed), time.monotonic()
    told: list[Told] = []
    with ExitStack() as stack:
        site = stack.enter_context(chaos_site(given.out))
        checks = Checks(site, _undisturbed(site))
        while (done := sum(len(each.hits) for each in told)) < given.events and time.monotonic() - began < given.seconds:
            number = len(told) + 1
            hits = min(dice.randint(*given.of_a_run), given.events - done)
            told.append(_run(site, Told(number), dice, hits))
            _write(given.out, _checked(checks, told[-1]))
    print(table(told))


def _undisturbed(site: ChaosSite) -> dict[str, str]:
    """Weights of a run that nothing disturbed; an earlier call has left them in the folder."""
    path = site.root / "weights.json"
    if not path.exists():
        told = _run(site, Told(0), None, 0)
        _write(site.root, _checked(Checks(site, site.weights()), told))
        path.write_text(json.dumps(site.weights()))
    found: dict[str, str] = json.loads(path.read_text())
    return found


def _run(site: ChaosSite, told: Told, dice: random.Random | None, hits: int) -> Told:
    """One run with its hits, repeated until it completes."""
    for stage in REBUILT:
        shutil.rmtree(site.store / stage, ignore_errors=True)
    began, plan = time.monotonic(), _Plan(dice, hits)
    while len(told.states) <= REPETITIONS and "Completed" not in told.states:
        run = site.start(f"chaos-{told.number}")
        while (state := site.ended(run)) is None and time.monotonic() - began < RUN_SECONDS:
            hit_at = time.monotonic()
            if dice and plan.is_due(site.at_work()) and (hit := _hit(site, dice)):
                told.hits.append(replace(hit, at=round(hit_at - began, 1)))
                _append(site.root / "hits.jsonl", {"run": told.number, **asdict(told.hits[-1])})
                plan.done()
            told.ended += site.keep_up()
            time.sleep(0.5)
        told.states.append(state or "still going on")
        if state is None:
            break
    told.seconds = round(time.monotonic() - began, 1)
    return told


class _Plan:
    """The moments of a run at which something is hit, as the dice has them."""

    def __init__(self, dice: random.Random | None, hits: int) -> None:
        self.dice, order = dice, list(MOMENTS)
        self.moments = sorted(dice.choices(order, list(MOMENTS.values()), k=hits), key=order.index) if dice else []
        self.due: float | None = None

    def is_due(self, at_work: str) -> bool:
        """Whether the next moment has come: a run that has got beyond it is hit where it is."""
        if not self.moments or self.dice is None:
            return False
        order, beginning = list(MOMENTS), self.moments[0] == BEGINNING
        reached = order.index(at_work) if at_work in order else 0
        if self.due is None and reached >= order.index(self.moments[0]):
            self.due = time.monotonic() + self.dice.uniform(*(BEGINNING_SECONDS if beginning else LATER_SECONDS))
        return self.due is not None and time.monotonic() >= self.due

    def done(self) -> None:
        """Go on to the next one."""
        self.moments, self.due = self.moments[1:], None


def _hit(site: ChaosSite, dice: random.Random) -> Hit | None:
    """Kill something that is there; None where the dice chose what is not, a stage between two stages say."""
    target = dice.choices(list(TARGETS), list(TARGETS.values()))[0]
    how = dice.choice((signal.SIGKILL, signal.SIGTERM)[: SIGNALS[target]])
    away, during = math.exp(dice.uniform(*map(math.log, AWAY_SECONDS))), site.at_work()
    if target in ("chain", "stage"):
        return Hit(target, how.name[3:], 0.0, during) if site.kill_process(target, how) else None
    if target not in site.services:
        return None
    site.kill_service(target, how)
    time.sleep(away)
    site.start_service(target)
    return Hit(target, how.name[3:], round(away, 1), during)


def _checked(checks: Checks, told: Told) -> Told:
    told.wrong = checks.wrong(f"chaos-{told.number}")
    return told


def _write(out: Path, told: Told) -> None:
    _append(out / "runs.jsonl", asdict(told))
    with suppress(BrokenPipeError):
        print(_row(told), flush=True)


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as stream:
        stream.write(json.dumps(line) + "\n")


def table(told: list[Told]) -> str:
    """All runs in Markdown."""
    head = "| run | what was hit, when | ended as | seconds | found wrong |\n|---|---|---|---|---|"
    return "\n".join([head, *map(_row, told)])


def _row(told: Told) -> str:
    hits = "; ".join(
        f"{each.at:.0f} s: {each.how} {each.target} in {each.during}" + (f", away {each.away:.0f} s" if each.away else "")
        for each in told.hits
    )
    wrong = "; ".join([*told.wrong, *(f"{name} ended by itself" for name in told.ended)]) or "nothing"
    return f"| {told.number} | {hits or '-'} | {', '.join(told.states)} | {told.seconds:.0f} | {wrong} |"
