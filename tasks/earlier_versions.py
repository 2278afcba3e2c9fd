"""Earlier versions of a registered model as the report draws them: reward and divergence, under the judge of this run."""

from __future__ import annotations

import json
from typing import Any

from posttrain.pipeline.chain import Chain
from schemas.estimates import Estimate
from schemas.recipe import policies
from schemas.results import Metrics
from tasks.tracking import client_for, flatten, never_fatal
from tasks.version_tags import KEY

VERSIONS = 20  # the latest ones
JUDGE = "evaluation.judge"


@never_fatal
def earlier_versions(chain: Chain, version: str | None) -> list[dict[str, Any]]:
    """Versions before `version` (None: all) whose run measured both numbers, the oldest first.

    Rewards of another judge have another unit, so versions that another one judged are left out.
    """
    assert chain.recipe.registry
    client, name = client_for(chain.recipe, chain.store.root), chain.recipe.registry.model
    if not client.search_registered_models(f"name = '{name}'"):
        return []
    found = client.search_model_versions(f"name = '{name}'", order_by=["version_number DESC"], max_results=VERSIONS + 1)
    judge, points = _judge_of(flatten(json.loads(chain.recipe.model_dump_json()))), []
    for each in reversed(found):
        if KEY not in each.tags or not each.run_id or (version and int(each.version) >= int(version)):
            continue
        data = client.get_run(each.run_id).data
        if _judge_of(data.params) == judge:
            points += _point(str(each.version), dict(data.metrics), policies(chain.recipe)[-1])
    return points


def _judge_of(params: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in params.items() if name == JUDGE or name.startswith(f"{JUDGE}.")}


def _point(version: str, numbers: Metrics, candidate: str) -> list[dict[str, Any]]:
    if not {f"reward_{candidate}", "kl_per_token"} <= numbers.keys():
        return []
    reward = Estimate.of(numbers, f"reward_{candidate}")
    return [
        {
            "policy": f"version {version}",
            "reward": reward.value,
            "reward_interval": reward.interval,
            "kl_per_token": numbers["kl_per_token"],
        }
    ]
