"""The task that registers: gates, export with a round trip in a fresh process, a version in MLflow, promotion."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.cache_policies import NO_CACHE
from prefect.tasks import task

from posttrain.evaluation.gates import describe, gates_of
from posttrain.pipeline.chain import Chain
from posttrain.runtime import progress, redaction
from posttrain.runtime.store import Built
from schemas.errors import GateRefused
from schemas.estimates import Estimate
from schemas.recipe import Recipe
from schemas.results import GateReport, StageReport
from tasks import champion, hub_push, registry
from tasks.availability import wait_for_answer
from tasks.card_facts import facts_of
from tasks.chains import chain_of
from tasks.drift import measure_drift
from tasks.reward_registry import register_reward
from tasks.stage import Returned, as_state, find_or_build, stage_report
from tasks.tracking import tracking_uri
from tasks.turns import CHAMPION

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

WAIT_SECONDS = 900.0  # that a registry may be away when a candidate is ready


@task(cache_policy=NO_CACHE, persist_result=False)
def register(recipe: Recipe, store: str, run_id: str) -> Returned:
    """Register the candidate when it passes every gate, and move the alias when it beats the champion."""
    with redaction.cleaned_errors():
        return as_state(_registered(recipe, store, run_id))


def _registered(recipe: Recipe, store: str, run_id: str) -> StageReport:
    started = time.monotonic()
    chain = chain_of(recipe, store, run_id)
    wait_for_answer(tracking_uri(recipe, chain.store.root), WAIT_SECONDS, "the registry")
    reward = register_reward(chain, run_id)
    gates = gates_of(recipe, chain.measured() | measure_drift(chain, registry.client_of(chain), run_id))
    if failed := [gate for gate in gates if not gate.passed]:
        raise GateRefused("; ".join(map(describe, failed)))
    _forget_unless_registered(chain)
    stored = find_or_build(chain, run_id, "register", lambda out: _build(chain, run_id, out, gates))
    report = _with_promotion(chain, stage_report(stored, time.monotonic() - started))
    return report.model_copy(update={"outputs": report.outputs | reward})


def _with_promotion(chain: Chain, report: StageReport) -> StageReport:
    """Promotion is decided in every run, since the champion may have changed since the version was registered."""
    assert chain.recipe.registry
    client = registry.client_of(chain)
    version = client.get_model_version(chain.recipe.registry.model, report.outputs["version"])
    registry.note_results(chain, version)
    promotion = champion.promote(chain, version, lambda opponent: _head_to_head(chain, opponent))
    if promotion.alias == CHAMPION:
        hub_push.push(chain, client, version)
    outputs = report.outputs | {"alias": promotion.alias, "promotion": promotion.sentence}
    metrics = report.metrics | {"promoted": float(promotion.alias == CHAMPION)}
    return report.model_copy(update={"outputs": outputs, "metrics": metrics})


def _forget_unless_registered(chain: Chain) -> None:
    """The registry is outside the store: a result whose version was deleted there is built again."""
    assert chain.recipe.registry
    identity = chain.identity("register")
    hit = chain.store.finished(identity)
    if hit and registry.find_version(registry.client_of(chain), chain.recipe.registry.model, hit.result.key) is None:
        chain.store.discard(identity)


def _build(chain: Chain, run_id: str, out: Path, gates: tuple[GateReport, ...]) -> Built:
    from posttrain.checkpoints.export import export
    from posttrain.checkpoints.generation import set_sampling
    from posttrain.checkpoints.round_trip import numbers
    from posttrain.report.model_card import CARD, model_card

    identity = chain.identity("register")
    with progress.working("register: exporting, and comparing outputs in a fresh process"):
        folders = export(chain.policy_before("register"), out, chain.store.folder("register", identity.key))
        for name in {"checkpoint", "base"} & folders.keys():
            set_sampling(out / name, chain.recipe.evaluation.temperature)
        exported = _exported(chain, out)
        (out / CARD).write_text(model_card(chain.recipe, facts_of(chain, gates)), encoding="utf-8")
    with progress.working("register: writing the version into MLflow"):
        version = registry.log_version(chain, run_id, out, folders, identity.key, gates)
    return Built(numbers(out), {**folders, **exported, "card": CARD, "version": str(version.version)})


def _exported(chain: Chain, out: Path) -> dict[str, str]:
    """Other forms of the checkpoint that the recipe asks for."""
    from posttrain.checkpoints.gguf_export import write_gguf

    assert chain.recipe.registry
    if "gguf" not in chain.recipe.registry.export:
        return {}
    write_gguf(out / "checkpoint", out / registry.GGUF)
    return {"gguf": registry.GGUF}


def _head_to_head(chain: Chain, opponent: ModelVersion) -> Estimate:
    """The candidate against the champion, as it was registered, by what `promote_on` names."""
    from posttrain.evaluation.head_to_head import against_champion, match_of
    from posttrain.models.policy import folder_policy

    assert chain.recipe.registry
    assert chain.recipe.registry.promote_on
    reporter = progress.current()
    reporter.note(f"register: comparing with champion version {opponent.version}")
    folder = registry.fetched(opponent, chain.store.root, "registry.model")
    match = match_of(chain, folder_policy(folder), reporter)
    return against_champion(match, chain.recipe.registry.promote_on)
