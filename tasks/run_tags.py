"""What MLflow's pages show of a run beside its numbers: who started it, from which code, and where it is in Prefect's pages."""

from __future__ import annotations

import os

from posttrain.runtime.provenance import environment
from schemas.recipe import Recipe
from tasks.turns import this_user


def run_tags(recipe: Recipe) -> dict[str, str]:
    """Tags of the parent run of a recipe."""
    about = environment()
    tags = {"mlflow.source.name": f"posttrain {recipe.name}", "mlflow.source.type": "JOB"}
    if commit := about.get("git_commit"):
        tags["mlflow.source.git.commit"] = commit
    return about | tags | {"mlflow.user": this_user()} | {"mlflow.note.content": "\n\n".join(_note(recipe))}


def _note(recipe: Recipe) -> list[str]:
    said = [f"Recipe `{recipe.name}`: {', '.join(recipe.stages)}. The report is the artifact `report.html`."]
    if page := prefect_page():
        said.append(f"[The run in Prefect]({page})")
    return said


def prefect_page() -> str | None:
    """The page of this flow run; None outside of one, and on a server that ends with this process."""
    if "PREFECT_API_URL" not in os.environ or "PREFECT__SERVER_EPHEMERAL" in os.environ:
        return None
    from prefect.runtime import flow_run

    found: str | None = flow_run.get_flow_run_ui_url() if flow_run.get_id() else None
    return found
