"""Models out of a registry, and what gates go by, in a chain of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.pipeline.chain import Chain
from schemas.load import validate_recipe


def registered(document: dict, uri: str) -> dict:
    """The recipe on a registered model, without pretraining."""
    rest = {name: section for name, section in document.items() if name != "pretrain"}
    return rest | {"model": {"source": "registry", "uri": uri}}


@pytest.fixture
def versions(tmp_path) -> dict[str, Path]:
    """Checkpoint folders of registered versions, by their URI; versions 1 and 3 are equal."""
    folders = {}
    for version, content in (("1", "{}"), ("2", "{ }"), ("3", "{}")):
        folders[f"models:/house/{version}"] = tmp_path / version
        (tmp_path / version).mkdir()
        (tmp_path / version / "config.json").write_text(content)
    return folders


def test_a_registered_model_is_fetched_once_and_counts_by_content(document, store, versions):
    fetched: list[str] = []

    def fetch(uri: str) -> Path:
        fetched.append(uri)
        return versions[uri]

    def chain(version: str) -> Chain:
        return Chain(validate_recipe(registered(document, f"models:/house/{version}"), "tiny.yaml"), store, fetch)

    first = chain("1")
    (origin,) = first.policy_origins("sft")
    assert (origin.name, origin.location) == ("model", "models:/house/1")
    assert first.policy_before("sft").base == str(versions["models:/house/1"])
    assert fetched == ["models:/house/1"]
    digests = [chain(version).policy_origins("sft")[0].digest for version in "123"]
    assert digests[0] == digests[2] == origin.digest
    assert digests[1] != origin.digest


def test_without_a_registry_a_registered_model_is_an_error(document, store):
    chain = Chain(validate_recipe(registered(document, "models:/house/1"), "tiny.yaml"), store)
    with pytest.raises(LookupError, match=r"models:/house/1: this chain was made without a registry"):
        chain.policy_origins("sft")
