"""The alias `champion` against a real SQLite file: it moves only when a candidate earns it, or a person says so."""

from __future__ import annotations

import threading

import pytest

from posttrain.pipeline.chain import Chain
from schemas.errors import Refusal
from schemas.estimates import Estimate
from tasks.champion import Promotion, champion_of, promote, promote_by_hand, roll_back
from tasks.registry import client_of

WON, EVEN = Estimate(0.8, (0.6, 0.9)), Estimate(0.6, (0.45, 0.75))
LIKE_BASE = {"win_rate_vs_base": 0.55, "win_rate_vs_base_low": 0.48, "win_rate_vs_base_high": 0.62}


def champion(chain: Chain) -> str:
    return str(champion_of(client_of(chain), chain.recipe.registry.model).version)


def never(version):
    raise AssertionError(f"compared with version {version.version}")


def test_nobody_is_champion_before_the_first_promotion(chain, new_version):
    new_version(chain, "aa")
    assert champion_of(client_of(chain), "house") is None


def test_the_first_version_becomes_champion_without_a_comparison(chain, new_version):
    promotion = promote(chain, new_version(chain, "aa"), never)
    assert promotion.alias == "champion"
    assert promotion.sentence == "promoted: house version 1 is champion: the first version that passed the gates"
    assert champion(chain) == "1"


def test_a_first_version_that_does_not_beat_what_promotion_asks_for_stays_challenger(a_chain, new_version):
    """The lower end, 48%, is 2 points short of the 50% that it must exceed."""
    chain = a_chain(measured=LIKE_BASE)
    promotion = promote(chain, new_version(chain, "aa"), never)
    assert promotion.alias == "challenger"
    assert promotion.sentence.startswith("promotion refused: version 1 wins 55.0% of held-out prompts against base")
    assert promotion.sentence.endswith("it is 2.0% short")
    assert champion_of(client_of(chain), "house") is None


def test_a_first_version_needs_no_win_rate_where_the_recipe_names_none(a_chain, new_version):
    chain = a_chain(promote_on=None, measured=LIKE_BASE)
    assert promote(chain, new_version(chain, "aa"), never).alias == "champion"


def test_an_unreachable_registry_is_not_taken_for_one_without_a_champion(chain, monkeypatch):
    """Else an outage would promote every candidate without a comparison."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MlflowException, match="Max retries exceeded"):
        champion_of(MlflowClient("http://127.0.0.1:9"), "house")


def test_a_candidate_that_does_not_beat_the_champion_stays_challenger(chain, new_version):
    """The lower end, 45%, is 5 points short of the 50% that it must exceed."""
    promote(chain, new_version(chain, "aa"), never)
    candidate = new_version(chain, "bb")
    promotion = promote(chain, candidate, lambda version: EVEN)
    assert promotion.alias == "challenger"
    assert promotion.sentence.startswith("promotion refused: version 2 wins 60.0% of held-out prompts against champion version 1")
    assert "45.0% to 75.0%" in promotion.sentence
    assert promotion.sentence.endswith("it is 5.0% short")
    assert champion(chain) == "1"
    assert client_of(chain).get_model_version("house", candidate.version).aliases == ["challenger"]


def test_an_interval_that_starts_at_one_half_does_not_win(chain, new_version):
    promote(chain, new_version(chain, "aa"), never)
    assert promote(chain, new_version(chain, "bb"), lambda version: Estimate(0.7, (0.5, 0.9))).alias == "challenger"
    assert champion(chain) == "1"


def test_a_candidate_that_beats_the_champion_takes_its_place(chain, new_version):
    promote(chain, new_version(chain, "aa"), never)
    compared = []
    promotion = promote(chain, new_version(chain, "bb"), lambda version: compared.append(str(version.version)) or WON)
    assert compared == ["1"]
    assert promotion == Promotion("champion", "promoted: house version 2 is champion in place of version 1")
    assert champion(chain) == "2"


def test_without_a_promotion_metric_the_gates_are_enough(a_chain, new_version):
    chain = a_chain(promote_on=None)
    promote(chain, new_version(chain, "aa"), never)
    assert promote(chain, new_version(chain, "bb"), never).alias == "champion"
    assert champion(chain) == "2"


def test_a_champion_that_is_promoted_again_is_not_compared_with_itself(chain, new_version):
    version = new_version(chain, "aa")
    promote(chain, version, never)
    assert promote(chain, version, never) == Promotion("champion", "house version 1 is champion")


def test_of_two_candidates_at_once_the_second_is_compared_with_the_first(chain, new_version):
    """Version 2 holds the lock while it is compared; version 3 arrives meanwhile and must not meet version 1."""
    promote(chain, new_version(chain, "aa"), never)
    two, three = new_version(chain, "bb"), new_version(chain, "cc")
    comparing, met, outcomes = threading.Event(), {}, {}

    def compare(candidate: str, pause: float):
        def measured(version):
            met[candidate] = str(version.version)
            comparing.set()
            threading.Event().wait(pause)
            return WON

        return measured

    def promoted(version, pause):
        outcomes[str(version.version)] = promote(chain, version, compare(str(version.version), pause)).alias

    first = threading.Thread(target=promoted, args=(two, 1.0))
    first.start()
    assert comparing.wait(30)
    promoted(three, 0.0)
    first.join()
    assert met == {"2": "1", "3": "2"}
    assert outcomes == {"2": "champion", "3": "champion"}
    assert champion(chain) == "3"


def test_an_alias_that_moved_during_the_comparison_is_compared_again(chain, new_version):
    """Compare and set: a run on another store, or a person in the MLflow page, does not hold this store's lock.

    Version 3 becomes champion while version 2 is compared with version 1. Version 2 beats 1 and not 3, so 3 stays.
    """
    promote(chain, new_version(chain, "aa"), never)
    two, three = new_version(chain, "bb"), new_version(chain, "cc")
    client, met = client_of(chain), []

    def compare(version):
        met.append(str(version.version))
        if met == ["1"]:
            client.set_registered_model_alias("house", "champion", three.version)
            return WON
        return EVEN

    promotion = promote(chain, two, compare)
    assert met == ["1", "3"]
    assert promotion.alias == "challenger"
    assert champion(chain) == "3"


def test_a_version_promoted_by_hand_replaces_the_champion_and_a_rollback_restores_it(chain, new_version):
    client = client_of(chain)
    for key in ("aa", "bb", "cc"):
        new_version(chain, key)
    promote(chain, client.get_model_version("house", "1"), never)
    for number in ("2", "3"):
        promote_by_hand(client, client.get_model_version("house", number), "asked for")
    assert champion(chain) == "3"
    assert roll_back(client, "house", "worse").sentence == "house version 2 is champion again in place of version 3: worse"
    assert (
        roll_back(client, "house", "worse too").sentence == "house version 1 is champion again in place of version 2: worse too"
    )
    with pytest.raises(Refusal, match="version 1, which replaced none"):
        roll_back(client, "house", "once more")
    assert champion(chain) == "1"


def test_a_rollback_to_a_deleted_version_is_refused(chain, new_version):
    client = client_of(chain)
    for key in ("aa", "bb"):
        promote_by_hand(client, new_version(chain, key), "asked for")
    client.delete_model_version("house", "1")
    with pytest.raises(Refusal, match="version 1 was deleted"):
        roll_back(client, "house", "worse")
    assert champion(chain) == "2"
