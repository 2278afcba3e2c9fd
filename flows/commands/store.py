"""`posttrain store ls | verify | gc`: what a store holds, whether it is sound, and what of it may go."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal
from rich.table import Table

from flows.commands.shared import HOME, Json, StoreOption, Tracking, console, prepare, show
from flows.terminal import PlainConsole
from posttrain.runtime.inventory import Entry, Key, damaged, discard, going_on, inventory, unneeded
from posttrain.runtime.store import Store
from schemas.addresses import opened
from schemas.errors import Refusal

DAY = 86400.0
app = typer.Typer(help="What a store holds, whether it is sound, and what of it may go.", no_args_is_help=True)


@app.command("ls")
def ls(store: StoreOption = HOME, tracking: Tracking = None, as_json: Json = False) -> None:
    """List results and interrupted attempts with their sizes, and the registered versions that need them."""
    root = prepare(store)
    entries = inventory(Store(root))
    versions = _versions(root, tracking)
    if as_json:
        show({"store": str(root), "bytes": _bytes(entries), "entries": [_row(each, versions) for each in entries]}, as_json)
        return
    _print(entries, versions)
    PlainConsole().print(f"{decimal(_bytes(entries))} in {len(entries)} folders of {root}")
    _say_what_is_copied(root)


@app.command("verify")
def verify(store: StoreOption = HOME, as_json: Json = False) -> None:
    """Take the digest of every file of every result, and compare it with what was written.

    Raises:
        Refusal: when a result is not what was built.
    """
    root = prepare(store)
    entries = [each for each in inventory(Store(root)) if each.state != "partial"]
    wrong = [{"folder": str(entry.folder), "found": what} for entry, what in damaged(entries)]
    if as_json or not wrong:
        show({"store": str(root), "results": len(entries), "bytes": _bytes(entries), "damaged": wrong}, as_json)
    if wrong:
        raise Refusal(
            where=f"--store ({len(wrong)} of {len(entries)} results)",
            found="; ".join(f"{each['folder']}: {each['found']}" for each in wrong),
            allowed="what was built",
            remedy="remove these folders and repeat the recipe that made them: they are built anew",
        )


@app.command("gc")
def gc(
    store: StoreOption = HOME,
    tracking: Tracking = None,
    days: Annotated[int, typer.Option("--older-than", metavar="DAYS", min=1, help="Keep what was used since then.")] = 30,
    delete: Annotated[bool, typer.Option("--delete", help="Remove them; without it they are only listed.")] = False,
    unregistered: Annotated[
        bool, typer.Option("--unregistered", help="Registered results may go, too, where the registry knows none of them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find what nothing needs: not used for a while, behind no registered version, and behind no newer result."""
    root = prepare(store)
    entries = inventory(Store(root))
    versions = _versions(root, tracking)
    if not unregistered:
        _require_registry(entries, versions)
    may_go = unneeded(entries, versions, time.time() - days * DAY)
    gone = _delete(may_go, Store(root)) if delete else []
    if as_json:
        rows = [_row(each, versions) | {"removed": each in gone} for each in may_go]
        show({"store": str(root), "bytes": _bytes(may_go), "removed_bytes": _bytes(gone), "entries": rows}, as_json)
        return
    _print(may_go, versions)
    said = f"removed {decimal(_bytes(gone))}" if delete else f"{decimal(_bytes(may_go))} may go: repeat with --delete"
    console().print(said if may_go else f"nothing in {root} may go")
    _say_what_is_copied(root)


def _say_what_is_copied(root: Path) -> None:
    """Of a bucket only the copy is looked at: no machine knows what the others need."""
    if (address := Store(root).address) != str(root):
        said = f"this is the copy that this machine has of {address}; what goes here is copied from there when it is needed again"
        console().print(said, soft_wrap=True)


def _versions(root: Path, tracking: str | None) -> dict[Key, list[str]]:
    from tasks.housekeeping import registered_places

    return registered_places(root, opened(tracking, "--tracking-uri") if tracking else None)


def _require_registry(entries: list[Entry], versions: dict[Key, list[str]]) -> None:
    """A store that registered models, and a registry that knows none of them: most likely it is the wrong one."""
    made = [each for each in entries if each.stage == "register" and each.state == "finished"]
    if made and not any(each.place in versions for each in made):
        raise Refusal(
            where="--tracking-uri",
            found=f"a registry that knows none of the {len(made)} registered results of this store",
            allowed="the registry in which its models are, so that nothing that they need is removed",
            remedy="name it by --tracking-uri or MLFLOW_TRACKING_URI; if its versions were deleted, give --unregistered",
        )


def _delete(entries: list[Entry], store: Store) -> list[Entry]:
    if held := going_on(store):
        raise Refusal(
            where="--delete",
            found=f"{held[0]}, which a process holds",
            allowed="a store in which no run goes on: it may read what is about to go",
            remedy="wait for its end (`posttrain status` shows deployed runs), and repeat",
        )
    return [entry for entry in entries if discard(entry)]


def _row(entry: Entry, versions: dict[Key, list[str]]) -> dict[str, Any]:
    used = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.used))
    return {
        "stage": entry.stage, "key": entry.key, "state": entry.state, "bytes": entry.size, "used": used,
        "versions": versions.get(entry.place, []),
    }  # fmt: skip


def _print(entries: list[Entry], versions: dict[Key, list[str]]) -> None:
    if not entries:
        return
    table = Table("stage", "key", "state", "size", "last used", "needed by")
    for row in (_row(entry, versions) for entry in entries):
        needed_by = ", ".join(row["versions"]) or "-"
        table.add_row(row["stage"], row["key"], row["state"], decimal(row["bytes"]), row["used"], needed_by)
    PlainConsole().print(table)


def _bytes(entries: list[Entry]) -> int:
    return sum(each.size for each in entries)
