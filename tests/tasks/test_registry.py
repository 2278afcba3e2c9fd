"""The registry against a real SQLite file: versions by their key, and an alias that moves only when a candidate earns it."""

from __future__ import annotations

import threading

import pytest

from posttrain.pipeline.chain import Chain
from posttrain.runtime.store import Built, Store
from schemas.estimates import Estimate
from schemas.recipe import Recipe
from tasks import registry

WON, EVEN = Estimate(0.8, (0.6, 0.9)), Estimate(0.6, (0.45, 0.75))
BEATS_BASE = {"win_rate_vs_base": 0.9, "win_rate_vs_base_low": 0.8, "win_rate_vs_base_high": 1.0}
LIKE_BASE = {"win_rate_vs_base": 0.55, "win_rate_vs_base_low": 0.48, "win_rate_vs_base_high": 0.62}


def a_chain(root, promote_on: str | None = "win_rate_vs_base", measured: dict[str, float] = BEATS_BASE) -> Chain:
    """A chain whose recipe registers `house`, with finished stages of which the last has measured the given numbers."""
    (root.parent / "model").mkdir(exist_ok=True)
    (root.parent / "pairs.jsonl").write_text('{"prompt": "How was the soup?", "chosen": "Warm.", "rejected": "Cold."}\n')
    recipe = {
        "name": "house",
        "model": {"source": "local", "path": str(root.parent / "model")},
        "data": {"preferences": str(root.parent / "pairs.jsonl")},
        "alignment": {"algorithm": "dpo"},
        "evaluation": {"judge": {"name": "posttrain.data.samples:sentiment"}},
        "registry": {"model": "house", "promote_on": promote_on},
    }
    chain = Chain(Recipe.model_validate(recipe), Store(root))
    for stage, output, numbers in (("validate", "preferences", {}), ("align", "adapter", {}), ("evaluate", "samples", measured)):
        chain.store.build(chain.identity(stage), lambda out, name=output, found=numbers: _built(out, name, found))
    return chain


def _built(out, output: str, metrics: dict[str, float]) -> Built:
    (out / output).write_text(output)
    return Built(metrics, {output: output})


@pytest.fixture
def chain(root) -> Chain:
    return a_chain(root)


def new_version(chain: Chain, key: str):
    """A version as `log_version` makes one, without the artifacts."""
    client, name = registry.client_of(chain), chain.recipe.registry.model
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    return client.create_model_version(name, chain.store.root.as_uri(), tags={"posttrain.key": key})


def champion(chain: Chain) -> str:
    return str(registry.champion_of(registry.client_of(chain), chain.recipe.registry.model).version)


def never(version):
    raise AssertionError(f"compared with version {version.version}")


def test_a_version_is_found_by_the_key_that_made_it(chain):
    one, two = new_version(chain, "aa"), new_version(chain, "bb")
    client = registry.client_of(chain)
    assert str(registry.find_version(client, "house", "aa").version) == str(one.version) == "1"
    assert str(registry.find_version(client, "house", "bb").version) == str(two.version) == "2"
    assert registry.find_version(client, "house", "a") is None
    assert registry.find_version(client, "other", "aa") is None


def test_a_found_version_carries_its_tags(chain):
    new_version(chain, "aa")
    assert registry.find_version(registry.client_of(chain), "house", "aa").tags == {"posttrain.key": "aa"}


def test_a_deleted_version_is_not_found(chain):
    client = registry.client_of(chain)
    client.delete_model_version("house", new_version(chain, "aa").version)
    assert registry.find_version(client, "house", "aa") is None


def test_nobody_is_champion_before_the_first_promotion(chain):
    new_version(chain, "aa")
    assert registry.champion_of(registry.client_of(chain), "house") is None


def test_the_first_version_becomes_champion_without_a_comparison(chain):
    promotion = registry.promote(chain, new_version(chain, "aa"), never)
    assert promotion.alias == "champion"
    assert promotion.sentence == "promoted: house version 1 is champion: the first version that passed the gates"
    assert champion(chain) == "1"


def test_a_first_version_that_does_not_beat_what_promotion_asks_for_stays_challenger(root):
    """The lower end, 48%, is 2 points short of the 50% that it must exceed."""
    chain = a_chain(root, measured=LIKE_BASE)
    promotion = registry.promote(chain, new_version(chain, "aa"), never)
    assert promotion.alias == "challenger"
    assert promotion.sentence.startswith("promotion refused: version 1 wins 55.0% of held-out prompts against base")
    assert promotion.sentence.endswith("it is 2.0% short")
    assert registry.champion_of(registry.client_of(chain), "house") is None


def test_a_first_version_needs_no_win_rate_where_the_recipe_names_none(root):
    chain = a_chain(root, promote_on=None, measured=LIKE_BASE)
    assert registry.promote(chain, new_version(chain, "aa"), never).alias == "champion"


def test_an_unreachable_registry_is_not_taken_for_one_without_a_champion(chain, monkeypatch):
    """Else an outage would promote every candidate without a comparison."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MlflowException, match="Max retries exceeded"):
        registry.champion_of(MlflowClient("http://127.0.0.1:9"), "house")


def test_a_candidate_that_does_not_beat_the_champion_stays_challenger(chain):
    """The lower end, 45%, is 5 points short of the 50% that it must exceed."""
    registry.promote(chain, new_version(chain, "aa"), never)
    candidate = new_version(chain, "bb")
    promotion = registry.promote(chain, candidate, lambda version: EVEN)
    assert promotion.alias == "challenger"
    assert promotion.sentence.startswith("promotion refused: version 2 wins 60.0% of held-out prompts against champion version 1")
    assert "45.0% to 75.0%" in promotion.sentence
    assert promotion.sentence.endswith("it is 5.0% short")
    assert champion(chain) == "1"
    assert registry.client_of(chain).get_model_version("house", candidate.version).aliases == ["challenger"]


def test_an_interval_that_starts_at_one_half_does_not_win(chain):
    registry.promote(chain, new_version(chain, "aa"), never)
    assert registry.promote(chain, new_version(chain, "bb"), lambda version: Estimate(0.7, (0.5, 0.9))).alias == "challenger"
    assert champion(chain) == "1"


def test_a_candidate_that_beats_the_champion_takes_its_place(chain):
    registry.promote(chain, new_version(chain, "aa"), never)
    compared = []
    promotion = registry.promote(chain, new_version(chain, "bb"), lambda version: compared.append(str(version.version)) or WON)
    assert compared == ["1"]
    assert promotion == registry.Promotion("champion", "promoted: house version 2 is champion in place of version 1")
    assert champion(chain) == "2"


def test_without_a_promotion_metric_the_gates_are_enough(root):
    chain = a_chain(root, promote_on=None)
    registry.promote(chain, new_version(chain, "aa"), never)
    assert registry.promote(chain, new_version(chain, "bb"), never).alias == "champion"
    assert champion(chain) == "2"


def test_a_champion_that_is_promoted_again_is_not_compared_with_itself(chain):
    version = new_version(chain, "aa")
    registry.promote(chain, version, never)
    assert registry.promote(chain, version, never) == registry.Promotion("champion", "house version 1 is champion")


def test_of_two_candidates_at_once_the_second_is_compared_with_the_first(chain):
    """Version 2 holds the lock while it is compared; version 3 arrives meanwhile and must not meet version 1."""
    registry.promote(chain, new_version(chain, "aa"), never)
    two, three = new_version(chain, "bb"), new_version(chain, "cc")
    comparing, met, outcomes = threading.Event(), {}, {}

    def compare(candidate: str, pause: float):
        def measured(version):
            met[candidate] = str(version.version)
            comparing.set()
            threading.Event().wait(pause)
            return WON

        return measured

    def promote(version, pause):
        outcomes[str(version.version)] = registry.promote(chain, version, compare(str(version.version), pause)).alias

    first = threading.Thread(target=promote, args=(two, 1.0))
    first.start()
    assert comparing.wait(30)
    promote(three, 0.0)
    first.join()
    assert met == {"2": "1", "3": "2"}
    assert outcomes == {"2": "champion", "3": "champion"}
    assert champion(chain) == "3"


def test_an_alias_that_moved_during_the_comparison_is_compared_again(chain):
    """Compare and set: a run on another store, or a person in the MLflow page, does not hold this store's lock.

    Version 3 becomes champion while version 2 is compared with version 1. Version 2 beats 1 and not 3, so 3 stays.
    """
    registry.promote(chain, new_version(chain, "aa"), never)
    two, three = new_version(chain, "bb"), new_version(chain, "cc")
    client, met = registry.client_of(chain), []

    def compare(version):
        met.append(str(version.version))
        if met == ["1"]:
            client.set_registered_model_alias("house", "champion", three.version)
            return WON
        return EVEN

    promotion = registry.promote(chain, two, compare)
    assert met == ["1", "3"]
    assert promotion.alias == "challenger"
    assert champion(chain) == "3"


def test_the_report_names_the_alias_or_the_version_under_which_consumers_find_it(chain):
    registry.promote(chain, new_version(chain, "aa"), never)
    registry.promote(chain, new_version(chain, "bb"), lambda version: EVEN)
    new_version(chain, "cc")
    reports = [registry.model_report(chain, version) for version in "123"]
    assert [(report.alias, report.uri) for report in reports] == [
        ("champion", "models:/house@champion"), ("challenger", "models:/house@challenger"), (None, "models:/house/3"),
    ]  # fmt: skip
    assert {report.tracking_uri for report in reports} == {f"sqlite:///{chain.store.root}/tracking/mlflow.db"}
