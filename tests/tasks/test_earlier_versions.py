"""Earlier versions as points of the report: of the same judge, with both numbers, before the one that is reported."""

from __future__ import annotations

import json

from tasks import registry
from tasks.earlier_versions import earlier_versions
from tasks.tracking import flatten


def test_versions_of_the_same_judge_with_both_numbers_are_points(chain):
    """Version 1 is one; 2 has another judge, 3 no divergence, 4 another program's, and 5 is the one that is reported."""
    client = registry.client_of(chain)
    client.create_registered_model("house")
    params = flatten(json.loads(chain.recipe.model_dump_json()))
    other = params | {"evaluation.judge.name": "mine:other"}
    numbers = {"reward_aligned": 0.5, "reward_aligned_low": 0.4, "reward_aligned_high": 0.6, "kl_per_token": 0.1}
    for judged, measured, tags in (
        (params, numbers, {"posttrain.key": "a"}),
        (other, numbers, {"posttrain.key": "b"}),
        (params, {"reward_aligned": 0.5}, {"posttrain.key": "c"}),
        (params, numbers, {}),
        (params, numbers, {"posttrain.key": "e"}),
    ):
        run = client.create_run("0").info.run_id
        for name, value in judged.items():
            client.log_param(run, name, value) if name.startswith("evaluation.judge") else None
        for name, value in measured.items():
            client.log_metric(run, name, value)
        client.create_model_version("house", chain.store.root.as_uri(), run, tags=tags)
    point = {"policy": "version 1", "reward": 0.5, "reward_interval": (0.4, 0.6), "kl_per_token": 0.1}
    assert earlier_versions(chain, "5") == [point]
    assert [each["policy"] for each in earlier_versions(chain, None)] == ["version 1", "version 5"]


def test_a_model_that_is_not_registered_has_none(chain):
    assert earlier_versions(chain, None) == []
