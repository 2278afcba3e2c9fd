"""The alias `champion` of a registered model: who gets it, by a comparison, by hand, or by going back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain.pipeline.chain import Chain
from posttrain.runtime.locks import locked
from schemas.errors import Refusal
from schemas.estimates import Estimate
from tasks import promotion, turns
from tasks.tracking import connect, tracking_uri
from tasks.turns import CHAMPION

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER = "challenger"
Compare = Callable[["ModelVersion"], Estimate]


@dataclass(frozen=True)
class Promotion:
    """Whether a version became champion, and why."""

    alias: str
    sentence: str


def champion_of(client: MlflowClient, name: str) -> ModelVersion | None:
    """The version behind the alias `champion`, or None. An unreachable registry raises."""
    version = client.get_registered_model(name).aliases.get(CHAMPION)
    return client.get_model_version(name, str(version)) if version else None


def promote(chain: Chain, version: ModelVersion, compare: Compare) -> Promotion:
    """Make the version champion where it beats the current one, else challenger.

    `compare(champion version)` returns how the candidate does against it by `promote_on`. Runs on one store wait for each other,
    which spares comparisons; of runs on several stores that beat one champion, one has the turn and the others compare again.
    """
    client, name, number = (
        connect(tracking_uri(chain.recipe, chain.store.root), chain.store.root),
        version.name,
        str(version.version),
    )
    with locked(chain.store.root / "tracking" / f"{name}.promotion.lock"):
        while True:
            turn, champion = turns.settle(client, name), champion_of(client, name)
            before = str(champion.version) if champion else ""
            if before == number:
                return Promotion(CHAMPION, f"{name} version {number} is champion")
            refusal = _refusal(chain, version, champion, compare)
            if (turn, before) != (turns.settle(client, name), _number(champion_of(client, name))):
                continue
            if refusal:
                client.set_registered_model_alias(name, CHALLENGER, number)
                return Promotion(CHALLENGER, refusal)
            replaced = f" in place of version {before}" if before else ": the first version that passed the gates"
            if turns.take(client, name, turn, before, number, "its run passed the gates and beat the champion"):
                return Promotion(CHAMPION, f"promoted: {name} version {number} is champion{replaced}")


def promote_by_hand(client: MlflowClient, version: ModelVersion, why: str) -> Promotion:
    """Make a version champion because a person says so; the reason is kept.

    Raises:
        Refusal: when another run moved the alias at the same moment.
    """
    name, number = version.name, str(version.version)
    turn, before = turns.settle(client, name), _number(champion_of(client, name))
    if before == number:
        return Promotion(CHAMPION, f"{name} version {number} is champion")
    _take(client, name, turn, before, number, why, rollback=False)
    return Promotion(CHAMPION, f"{name} version {number} is champion{f' in place of version {before}' if before else ''}: {why}")


def roll_back(client: MlflowClient, name: str, why: str) -> Promotion:
    """Make the version champion again that the current champion replaced.

    Raises:
        Refusal: when none was replaced, that version was deleted, or another run moved the alias at the same moment.
    """
    turn, now = turns.settle(client, name), _number(champion_of(client, name))
    promoted = [each for each in turns.history(client, name) if each.version == now and not each.rollback]
    earlier = promoted[-1].before if promoted else ""
    if not now or not earlier:
        raise Refusal(
            where="NAME",
            found=f"{name}, whose champion {f'is version {now}, which replaced none' if now else 'was never named'}",
            allowed="a model whose champion replaced another version",
            remedy="name the version: posttrain promote models:/NAME/VERSION --because ...",
        )
    if not client.search_model_versions(f"name = '{name}' and version_number = '{earlier}'"):
        raise Refusal(
            where="NAME",
            found=f"{name}, whose version {earlier} was deleted",
            allowed="an earlier champion that is still registered",
            remedy="name another version: posttrain promote models:/NAME/VERSION --because ...",
        )
    _take(client, name, turn, now, earlier, why, rollback=True)
    return Promotion(CHAMPION, f"{name} version {earlier} is champion again in place of version {now}: {why}")


def _take(client: MlflowClient, name: str, turn: int, before: str, version: str, why: str, rollback: bool) -> None:
    if not turns.take(client, name, turn, before, version, why, rollback):
        raise Refusal(
            where="NAME",
            found=f"{name}, whose champion another run replaced at this moment",
            allowed="one change at a time",
            remedy="look at `posttrain models` and decide again",
        )


def _number(version: ModelVersion | None) -> str:
    return str(version.version) if version else ""


def _refusal(chain: Chain, version: ModelVersion, champion: ModelVersion | None, compare: Compare) -> str | None:
    """Why the version may not become champion, or None."""
    assert chain.recipe.registry
    metric, number = chain.recipe.registry.promote_on, str(version.version)
    if metric is None:
        return None
    if champion is None:
        return promotion.why_not_first(metric, number, chain.measured())
    return promotion.why_not_champion(metric, number, f"champion version {champion.version}", compare(champion))
