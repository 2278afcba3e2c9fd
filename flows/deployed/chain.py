"""The flow of a whole run on work pools: what a schedule, the UI and `posttrain trigger` start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.runtime import flow_run as this_flow_run
from prefect.states import Completed, Failed
from pydantic import BeforeValidator

from flows.deployed.artifacts import show_run
from flows.deployed.form import recipe_of_form
from flows.deployed.names import GATE, REFUSED, SKIPPED
from flows.deployed.overlap import overlapped
from flows.deployed.paths import require_absolute
from flows.deployed.reconcile import reconcile
from flows.deployed.workplace import at_work
from flows.post_training import PromotionRefused, RunFailed, run_recipe
from posttrain.runtime import redaction
from posttrain.runtime.progress import current
from posttrain.runtime.store import Store
from schemas.errors import GateRefused, Refusal
from schemas.load import apply_overrides, read_yaml, validate_recipe
from schemas.recipe import Recipe
from schemas.results import RunReport
from tasks.exchange import CHAIN, chain_note


def _name() -> str:
    """The recipe's name; of a recipe that is given by path, its file's."""
    given = this_flow_run.get_parameters().get("recipe")
    name = given.get("name") if isinstance(given, dict) else getattr(given, "name", None)
    return str(name or Path(str(given)).stem)


@flow(name=CHAIN, flow_run_name=_name, persist_result=False)
def post_training(
    recipe: Annotated[Recipe | Path, BeforeValidator(recipe_of_form)],
    store: str,
    overrides: list[str] = [],  # noqa: B006 - Prefect's form reads it
    placement: Literal["deployed", "inline"] = "deployed",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> Any:
    """Run a recipe: from raw text and preference pairs to an aligned, registered model.

    Args:
        recipe: the recipe, or the path of one that the workers can read.
        store: folder that keeps results and runs, the same on every worker.
        overrides: fields of the recipe to set, as FIELD=VALUE.
        placement: `deployed` runs each stage on its work pool, `inline` all of them in one process of this flow's pool.
        dtype: arithmetic that `compute.dtype` auto stands for.
    """
    with redaction.cleaned_errors():
        try:
            require_absolute(store)
            root = Store(store).root
            with at_work(CHAIN, chain_note(root, this_flow_run.get_id())):
                reconcile(root, current().note)
                if goes_on := overlapped(this_flow_run.get_id()):
                    return Completed(name=SKIPPED, message=goes_on)
                said = _run(_placed(recipe, overrides, placement, dtype), root)
                return Completed(message=said)
        except Refusal as refusal:
            return Failed(name=REFUSED, message=str(refusal))
        except GateRefused as refusal:
            return Failed(name=GATE, message=str(refusal))


def _placed(recipe: Recipe | Path, overrides: list[str], placement: str, dtype: str) -> Recipe:
    """The recipe with what the deployment decides."""
    document = read_yaml(recipe, "recipe") if isinstance(recipe, Path) else recipe.document
    loaded = validate_recipe(apply_overrides(document, overrides), str(recipe) if isinstance(recipe, Path) else recipe.name)
    auto = loaded.compute.dtype == "auto"
    compute = loaded.compute.model_copy(update={"dtype": dtype}) if auto else loaded.compute
    return loaded.model_copy(update={"placement": placement, "compute": compute})


def _run(recipe: Recipe, root: Path) -> str:
    """Run it, and show its result in Prefect; returns the sentence about promotion."""
    try:
        report = run_recipe(recipe, str(root))
    except (PromotionRefused, RunFailed) as ended:
        show_run(ended.report)
        raise ended.error if isinstance(ended, RunFailed) else ended from None
    show_run(report)
    return said(report)


def said(report: RunReport) -> str:
    """A finished run in a sentence."""
    built = [stage.name for stage in report.stages if not stage.reused]
    return f"{report.promotion}; built: {', '.join(built) if built else 'nothing, all stages were reused'}"
