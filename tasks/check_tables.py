"""What the contracts found, as tables where people look: an artifact of Prefect's run, a table of MLflow's."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prefect.artifacts import create_table_artifact
from prefect.context import TaskRunContext

if TYPE_CHECKING:
    from mlflow import MlflowClient

TABLE: Final = "checks.json"
"""Name of MLflow's table."""
log = logging.getLogger(__name__)


def check_rows(summary: Path) -> dict[str, list[dict[str, Any]]]:
    """By data set what each check found that found anything, from `summary.json` of the contracts."""
    found = json.loads(summary.read_text(encoding="utf-8"))
    return {name: [_row(check) for check in each["checks"] if check["count"]] for name, each in found.items()}


def _row(check: dict[str, Any]) -> dict[str, Any]:
    effect = "failed" if check["failed"] else check["severity"]
    places = ", ".join(check["examples"])
    return {k: check[k] for k in ("check", "count", "share", "limit")} | {"effect": effect, "such as": places}


def show_checks(summary: Path) -> None:
    """A table artifact for each data set, in a task of Prefect. A failure is a warning: the rows are checked all the same."""
    if TaskRunContext.get() is None or not summary.exists():
        return
    try:
        for name, rows in check_rows(summary).items():
            create_table_artifact(rows, key=f"checks-{name}", description=f"What the contract found in data.{name}")
    except Exception as error:
        log.warning("Prefect: the tables of checks are left out: %s", error)


def log_checks(client: MlflowClient, nested: str, summary: Path) -> None:
    """One table of all data sets; logged again it would be appended to itself."""
    if any(item.path == TABLE for item in client.list_artifacts(nested)):
        return
    rows = [{"data": name} | row for name, each in check_rows(summary).items() for row in each]
    if rows:
        client.log_table(nested, {column: [row[column] for row in rows] for column in rows[0]}, TABLE)
