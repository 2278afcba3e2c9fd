"""What Prefect is told of this project: its work pools, a deployment for each stage, and deployments of the chain."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import WorkPool
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema

from flows import defaults
from flows.deployed import automations, chain, engine, stage
from flows.deployed.api import insist
from flows.deployed.form import form_of, form_values
from flows.deployed.names import DEPLOYMENT, POOLS, STORE, TAG, deployment_of
from flows.filter_corpus import NAME as FILTER
from flows.filter_corpus import filter_corpus
from posttrain.pipeline.stages import WORK
from schemas.errors import Refusal
from schemas.recipe import Recipe
from tasks.exchange import CHAIN

SLUG = "posttrain"
"""Of the schedule that `posttrain deploy` sets: another deploy replaces it, and leaves those that people have added."""
# What our entry points set where the user has not, and what a process needs that outlives an outage of its server.
ENVIRONMENT = {name: value for name, value in defaults.DEFAULTS.items() if not name.startswith("PREFECT_LOGGING")} | {
    "PREFECT_LOGGING_EXTRA_LOGGERS": "posttrain,tasks,flows",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_CLIENT_MAX_RETRIES": "3",  # 14 s, after which `patience.py` asks again
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500,504",
}  # fmt: skip


FOR_PEOPLE = (CHAIN, FILTER)  # flows with a form
FILTER_ENTRY = "flows.filter_corpus:filter_corpus"


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where runs are to run."""

    store: str
    """Folder of the store, the same on every worker, or its bucket."""
    dtype: str
    """What `compute.dtype` auto stands for."""
    kind: Literal["process", "docker", "kubernetes"] = "process"
    """Type of the work pools."""
    pools: dict[str, str] = field(default_factory=POOLS.copy)
    """Names of the work pools, by kind of machine."""
    gpu_limit: int | None = None
    """Stages that run at once on the gpu pool; None is as many as its workers take."""
    python: str = sys.executable
    """Interpreter of process workers."""
    image: str | None = None
    """Image of containers."""
    templates: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Base job templates of pools that are made, by kind of machine; else Prefect's own."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A deployment as it is to be."""

    flow: Flow[..., Any]
    name: str
    entrypoint: str
    pool: str
    parameters: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = (TAG,)
    cron: str | None = None

    @property
    def full_name(self) -> str:
        """As Prefect writes it."""
        return deployment_of(self.flow.name, self.name)


def plan(site: Site, recipes: dict[str, Recipe], crons: dict[str, str]) -> list[Planned]:
    """The deployments of a site: one for each stage, one of the corpus filter by itself, one of the chain for any recipe, and one
    for each of `recipes`.

    Args:
        crons: times at which a recipe is run, in UTC, by its name.

    Raises:
        Refusal: for a time that is none.
    """
    entry = f"{chain.__name__}:post_training"
    common = {"store": site.store, "dtype": site.dtype}

    def of_recipe(recipe: Recipe) -> Planned:
        given = common | {"recipe": form_values(recipe)}
        return Planned(
            flow=chain.post_training, name=recipe.name, entrypoint=entry, pool=site.pools["cpu"], parameters=given,
            tags=(TAG, f"recipe:{recipe.name}"), cron=_checked(crons.get(recipe.name)),
        )  # fmt: skip

    def of_stage(name: str) -> Planned:
        flow, pool = stage.stage_flow(name), site.pools[WORK[name].pool]
        return Planned(flow=flow, name=DEPLOYMENT, entrypoint=f"{stage.__name__}:{name}", pool=pool)

    return [
        *map(of_stage, WORK),
        Planned(flow=filter_corpus, name=DEPLOYMENT, entrypoint=FILTER_ENTRY, pool=site.pools["cpu"]),
        Planned(flow=chain.post_training, name=DEPLOYMENT, entrypoint=entry, pool=site.pools["cpu"], parameters=common),
        *map(of_recipe, recipes.values()),
    ]


def _checked(cron: str | None) -> str | None:
    if cron is not None:
        try:
            CronSchedule(cron=cron)
        except ValueError:
            raise Refusal(
                where="--schedule", found=repr(cron), allowed="minute hour day month weekday, in UTC", remedy='"0 2 * * *", say'
            ) from None
    return cron


def register(site: Site, planned: list[Planned], notify: str | None = None) -> list[str]:
    """Make pools that are missing, deployments as they are planned, and automations; calling it again changes nothing.

    Each call is repeated while the server is too busy, as one on SQLite is at times.

    Args:
        notify: block that tells of runs that fail or are late.

    Returns:
        what was done, a sentence each.

    Raises:
        Refusal: when a pool of that name has another type.
    """
    done = [insist(functools.partial(_ensure_pool, site, machine), "to make work pools") for machine in site.pools]
    for each in planned:
        insist(functools.partial(_register, site, each), "to register deployments")
        done.append(f"deployment {each.full_name} on pool {each.pool}" + (f", at {each.cron} UTC" if each.cron else ""))
    return done + insist(lambda client: automations.ensure(client, notify), "to make automations")


def _ensure_pool(site: Site, machine: str, client: SyncPrefectClient) -> str:
    name = site.pools[machine]
    try:
        pool: WorkPool = client.read_work_pool(name)
    except ObjectNotFound:
        limit = site.gpu_limit if machine == "gpu" else None
        template = site.templates.get(machine) or _default_template(site.kind)
        client.create_work_pool(WorkPoolCreate(name=name, type=site.kind, base_job_template=template, concurrency_limit=limit))
        return f"work pool {name} of type {site.kind} is made"
    if pool.type != site.kind:
        raise Refusal(
            where="--work-pool-type",
            found=f"{site.kind}, and the pool {name} is of type {pool.type}",
            allowed="the pool's own type",
            remedy=f"give --work-pool-type {pool.type}, or another name for the pool",
        )
    return f"work pool {name} of type {site.kind} is there"


def _default_template(kind: str) -> dict[str, Any]:
    """Of processes; for other types the first worker of the pool brings one."""
    if kind != "process":
        return {}
    from prefect.workers.process import ProcessWorker

    return ProcessWorker.get_default_base_job_template()


def _register(site: Site, planned: Planned, client: SyncPrefectClient) -> None:
    flow_id = client.create_flow(planned.flow)
    client.create_deployment(
        flow_id=flow_id,
        name=planned.name,
        entrypoint=planned.entrypoint,
        work_pool_name=planned.pool,
        parameters=planned.parameters,
        description=planned.flow.description,
        tags=list(planned.tags),
        parameter_openapi_schema=_form(planned.flow),
        enforce_parameter_schema=planned.flow.name in FOR_PEOPLE,
        job_variables=_job_variables(site, planned),
        schedules=list(_schedules(planned, client)),
    )


def _form(flow: Flow[..., Any]) -> dict[str, Any]:
    """What people may fill in; the stages' parameters come from the chain."""
    if flow.name == CHAIN:
        return form_of(flow.fn)
    return parameter_schema(flow.fn).model_dump(mode="json", exclude_unset=True) if flow.name == FILTER else {}


def _schedules(planned: Planned, client: SyncPrefectClient) -> Iterator[DeploymentScheduleCreate]:
    """Those that are there, of which ours is replaced where a new one is planned: registering takes all away."""
    try:
        there = client.read_deployment_schedules(client.read_deployment_by_name(planned.full_name).id)
    except ObjectNotFound:
        there = []
    for each in there:
        if each.slug != SLUG or planned.cron is None:
            kept = each.model_dump(include={"schedule", "active", "parameters", "slug", "max_scheduled_runs"})
            yield DeploymentScheduleCreate.model_validate(kept)
    if planned.cron:
        yield DeploymentScheduleCreate(schedule=CronSchedule(cron=planned.cron, timezone="UTC"), slug=SLUG)


def _job_variables(site: Site, planned: Planned) -> dict[str, Any]:
    """Of every run. The worker's process itself starts the run's, which then ends with it."""
    of_chain = {STORE: site.store} if planned.flow.name == CHAIN else {}  # a chain says of its stages which store is theirs
    python = site.python if site.kind == "process" else "python"
    variables: dict[str, Any] = {"env": ENVIRONMENT | of_chain, "command": f"{python} -P -m {engine.__name__}"}
    if site.image:
        variables["image"] = site.image
    return variables


def read_template(path: Path, where: str) -> dict[str, Any]:
    """A base job template, as `prefect work-pool get-default-base-job-template` writes it.

    Raises:
        Refusal: when the file holds none.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        assert {"job_configuration", "variables"} <= set(document)
    except (OSError, ValueError, AssertionError, TypeError) as error:
        raise Refusal(
            where=where,
            found=f"{path}: {error or 'no job_configuration or variables'}",
            allowed="a base job template in JSON",
            remedy="start from those in deployments/, or from `prefect work-pool get-default-base-job-template`",
        ) from None
    return dict(document)
