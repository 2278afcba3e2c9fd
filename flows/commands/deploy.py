"""`posttrain deploy` and `posttrain undeploy`: what a Prefect server knows of this project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.commands.remote import prepare_remote
from flows.commands.shared import Json, prepare, show
from schemas.errors import Refusal
from schemas.load import load_recipe
from schemas.recipe import Recipe

if TYPE_CHECKING:
    from posttrain.runtime.store import Store

RECIPES = Path(__file__).resolve().parents[2] / "deployments" / "recipes"
StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        help="Folder of the store, a whole path that is the same on every worker, or s3://BUCKET/PREFIX.",
        show_default=False,
    ),
]


def deploy(
    store: StoreOption,
    recipes: Annotated[
        list[Path] | None, typer.Argument(help="Recipes that get deployments of their own.", show_default=False)
    ] = None,
    folder: Annotated[Path, typer.Option("--recipes", help="Folder whose recipes get some as well.")] = RECIPES,
    schedule: Annotated[
        str | None, typer.Option("--schedule", metavar="CRON", help="When RECIPES run: minute hour day month weekday, in UTC.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option("--dtype", help="What compute.dtype auto stands for.")
    ] = "float32",
    kind: Annotated[
        Literal["process", "docker", "kubernetes"], typer.Option("--work-pool-type", help="Of pools that are made.")
    ] = "process",
    cpu_pool: Annotated[str, typer.Option("--cpu-pool", help="Work pool of the chain, validate, filter and register.")] = "cpu",
    gpu_pool: Annotated[str, typer.Option("--gpu-pool", help="Work pool of training and evaluation.")] = "gpu",
    gpu_limit: Annotated[
        int | None, typer.Option("--gpu-limit", min=1, help="Stages at once on a gpu pool that is made.", show_default="no limit")
    ] = None,
    image: Annotated[str | None, typer.Option("--image", help="Image of containers.")] = None,
    cpu_template: Annotated[Path | None, typer.Option("--cpu-template", help="Base job template of a pool that is made.")] = None,
    gpu_template: Annotated[Path | None, typer.Option("--gpu-template", help="The same of the gpu pool.")] = None,
    notify: Annotated[
        str | None, typer.Option("--notify", metavar="TYPE/NAME", help="Notification block that tells of failed and late runs.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Tell Prefect of pools, stages and recipes; the second time changes nothing but what is given anew."""
    given = [load_recipe(path) for path in recipes or []]
    if schedule and not given:
        raise Refusal(where="--schedule", found="no recipe", allowed="a time and the recipes that run then", remedy="name them")
    address = _store(store).address
    (prepare if dry_run else prepare_remote)(store)
    from flows.deployed import registration

    templates = {"cpu": cpu_template, "gpu": gpu_template}
    site = registration.Site(
        store=address, dtype=dtype, kind=kind, pools={"cpu": cpu_pool, "gpu": gpu_pool}, gpu_limit=gpu_limit, image=image,
        templates={name: registration.read_template(path, f"--{name}-template") for name, path in templates.items() if path},
    )  # fmt: skip
    planned = registration.plan(site, offered(folder, given), {recipe.name: schedule for recipe in given if schedule})
    if dry_run:
        done = [f"deployment {each.full_name} on pool {each.pool}" for each in planned]
    else:
        done = registration.register(site, planned, notify)
    show({"store": address, "done": done}, as_json)


def undeploy(
    store: StoreOption,
    pools: Annotated[bool, typer.Option("--pools", help="Take away the work pools as well.")] = False,
    as_json: Json = False,
) -> None:
    """Take away what `deploy` has told Prefect for a store; runs, and what they have made, stay."""
    root = _store(store).root
    prepare_remote(store)
    from flows.deployed.removal import remove

    show({"done": remove(root, pools)}, as_json)


def _store(given: str) -> Store:
    from flows.deployed.paths import require_absolute
    from posttrain.runtime.store import Store

    require_absolute(given)
    return Store(given)


def offered(folder: Path, given: list[Recipe]) -> dict[str, Recipe]:
    """The recipes of a folder and others by name, with whole paths; the later of one name counts."""
    from flows.deployed.names import DEPLOYMENT
    from flows.deployed.paths import with_whole_paths

    recipes = [*(load_recipe(path) for path in sorted(folder.glob("*.yaml"))), *given]
    if any(recipe.name == DEPLOYMENT for recipe in recipes):
        allowed = "another name: this one is of the deployment for any recipe"
        raise Refusal(where="name", found=DEPLOYMENT, allowed=allowed, remedy="rename the recipe")
    return {recipe.name: with_whole_paths(recipe, Path.cwd()) for recipe in recipes}
