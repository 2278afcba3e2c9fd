"""The registry against a real SQLite file: versions by their key, and what the report says of them."""

from __future__ import annotations

from schemas.estimates import Estimate
from tasks import registry
from tasks.champion import promote

EVEN = Estimate(0.6, (0.45, 0.75))


def never(version):
    raise AssertionError(f"compared with version {version.version}")


def test_a_version_is_found_by_the_key_that_made_it(chain, new_version):
    one, two = new_version(chain, "aa"), new_version(chain, "bb")
    client = registry.client_of(chain)
    assert str(registry.find_version(client, "house", "aa").version) == str(one.version) == "1"
    assert str(registry.find_version(client, "house", "bb").version) == str(two.version) == "2"
    assert registry.find_version(client, "house", "a") is None
    assert registry.find_version(client, "other", "aa") is None


def test_a_found_version_carries_its_tags(chain, new_version):
    new_version(chain, "aa")
    assert registry.find_version(registry.client_of(chain), "house", "aa").tags == {"posttrain.key": "aa"}


def test_a_deleted_version_is_not_found(chain, new_version):
    client = registry.client_of(chain)
    client.delete_model_version("house", new_version(chain, "aa").version)
    assert registry.find_version(client, "house", "aa") is None


def test_the_report_names_the_alias_or_the_version_under_which_consumers_find_it(chain, new_version):
    promote(chain, new_version(chain, "aa"), never)
    promote(chain, new_version(chain, "bb"), lambda version: EVEN)
    new_version(chain, "cc")
    reports = [registry.model_report(chain, version) for version in "123"]
    assert [(report.alias, report.uri) for report in reports] == [
        ("champion", "models:/house@champion"), ("challenger", "models:/house@challenger"), (None, "models:/house/3"),
    ]  # fmt: skip
    assert {report.tracking_uri for report in reports} == {f"sqlite:///{chain.store.root}/tracking/mlflow.db"}
