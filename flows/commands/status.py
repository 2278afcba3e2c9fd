"""`posttrain status` and `posttrain reconcile`: what runs on the work pools, and what only seems to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from flows.commands.remote import prepare_remote
from flows.commands.shared import HOME, Json, StoreOption, console, show
from flows.terminal import PlainConsole


def status(
    store: StoreOption = HOME,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="Number of runs.")] = 20,
    as_json: Json = False,
) -> None:
    """Show pools, their workers and the latest runs of a Prefect server."""
    prepare_remote(store)
    from flows.deployed.api import insist
    from flows.deployed.overview import overview

    found = insist(lambda client: overview(client, limit), "the latest runs")
    if as_json:
        show(found, as_json)
    else:
        _print(found)


def reconcile(
    store: StoreOption = HOME,
    every: Annotated[
        float | None,
        typer.Option("--every", metavar="SECONDS", min=1, help="Go on, and have chains start again.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Mark runs as crashed that no process works on any more; each deployed run does it when it begins."""
    root = prepare_remote(store)
    from flows.deployed.reconcile import reconcile as free_dead_runs

    if every:
        _watch_over(root, every)
    told: list[str] = []
    number = free_dead_runs(root, told.append)
    show({"freed": number, "runs": told}, as_json)


def _watch_over(root: Path, every: float) -> NoReturn:
    """Reconcile until interrupted, through outages of the server."""
    from flows.deployed.api import PrefectAway
    from flows.deployed.reconcile import reconcile as free_dead_runs

    while True:
        try:
            free_dead_runs(root, lambda line: typer.echo(line, err=True), restart=True)
        except PrefectAway as away:
            typer.echo(str(away), err=True)
        time.sleep(every)


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table

    out = PlainConsole()
    pools = Table("pool", "type", "limit", "workers", title="pools", title_justify="left")
    for name, pool in found["pools"].items():
        workers = ", ".join(pool["workers"]) or "none: start one with `prefect worker start --pool " + name + "`"
        pools.add_row(name, pool["type"], str(pool["limit"] or "-"), "paused" if pool["paused"] else workers)
    runs = Table("run", "state", "since", "pool", "", title="runs", title_justify="left")
    for run in found["runs"]:
        first = next(iter(run["message"].splitlines()), "")
        runs.add_row(run["name"], run["state"], _clock(run["seconds_in_it"]), run["pool"] or "-", first)
    for table in (pools, runs):
        out.print(table)
    for each in found["schedules"]:
        out.print(f"{each['deployment']} runs at {each['cron']} UTC" + ("" if each["active"] else ", paused"))
    if not found["deployments"]:
        console().print("nothing is deployed here: run `posttrain deploy`")


def _clock(seconds: int) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit} {name}"
    return f"{max(0, seconds)} s"
