"""Whose turn it is to move the alias `champion`: a numbered log in MLflow that any database keeps consistent.

MLflow sets an alias whatever it was before, so that two runs on two machines could both replace the same champion. The name of
an experiment is unique in its database: whoever creates `posttrain.champion/NAME/<n>` has turn n, and nobody else. The log is
also the history that a rollback reads. Its entries are deleted in MLflow's sense: no page lists them, and their names stay taken.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from getpass import getuser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

CHAMPION = "champion"
SETTLED = "settled"  # tag of a turn whose alias was set


@dataclass(frozen=True)
class Turn:
    """One move of the alias."""

    number: int
    before: str
    """The version that was champion; empty for none."""
    version: str
    """The version that became champion."""
    why: str
    by: str
    rollback: bool
    settled: bool
    experiment: str
    """Id of the entry in the log."""


def history(client: MlflowClient, name: str) -> list[Turn]:
    """Every move of a model's alias that posttrain made, the oldest first."""
    from mlflow.entities import ViewType

    prefix, found, page = _entry(name, ""), [], None
    while page is None or page.token:
        page = client.search_experiments(
            ViewType.ALL, filter_string=f"name LIKE '{prefix}%'", page_token=page.token if page is not None else None
        )
        found += [each for each in page if each.name.startswith(prefix)]  # `_` of a name is a wildcard of LIKE
    return sorted((_read(each, prefix) for each in found), key=lambda turn: turn.number)


def settle(client: MlflowClient, name: str) -> int:
    """Finish the last move, whose process may have died before it set the alias; returns its number, 0 before the first."""
    turns = history(client, name)
    if turns and not turns[-1].settled:
        _set_alias(client, name, turns[-1])
    return turns[-1].number if turns else 0


def take(client: MlflowClient, name: str, after: int, before: str, version: str, why: str, rollback: bool = False) -> bool:
    """Move the alias from one version to another as turn `after` + 1; False where somebody else had that turn."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

    tags = {"before": before, "version": version, "why": why[:500], "by": this_user(), "rollback": "yes" if rollback else ""}
    try:
        client.create_experiment(f"{_entry(name, '')}{after + 1:06d}", tags=tags)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            return False
        raise
    settle(client, name)
    return True


def _set_alias(client: MlflowClient, name: str, turn: Turn) -> None:
    """Set the alias as a turn says. A later turn may have been taken meanwhile: its version must be what stays."""
    client.set_registered_model_alias(name, CHAMPION, turn.version)
    client.set_experiment_tag(turn.experiment, SETTLED, "yes")
    client.delete_experiment(turn.experiment)
    last = history(client, name)[-1]
    if last.number != turn.number:
        client.set_registered_model_alias(name, CHAMPION, last.version)


def this_user() -> str:
    """Who runs this: by name, or by number in a container whose user has no name."""
    try:
        return getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _entry(name: str, number: str) -> str:
    return f"posttrain.champion/{name}/{number}"


def _read(entry: Experiment, prefix: str) -> Turn:
    tags = entry.tags
    return Turn(
        number=int(entry.name.removeprefix(prefix)),
        before=tags.get("before", ""),
        version=tags.get("version", ""),
        why=tags.get("why", ""),
        by=tags.get("by", ""),
        rollback=bool(tags.get("rollback")),
        settled=SETTLED in tags,
        experiment=str(entry.experiment_id),
    )
