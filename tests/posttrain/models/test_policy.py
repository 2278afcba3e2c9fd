"""Which policy a folder holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.models.policy import Policy, folder_policy, source_policy
from posttrain.pipeline.preflight import check_model
from schemas.errors import Refusal
from schemas.model import LocalModel


def written(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_a_folder_of_save_pretrained_is_a_policy_whatever_else_is_in_it(tmp_path):
    folder = written(tmp_path, "config.json", "checkpoint/config.json", "base/config.json", "adapter/lineage.json")
    assert folder_policy(folder) == Policy(str(folder))


def test_of_an_exported_folder_the_checkpoint_is_the_policy(tmp_path):
    folder = written(tmp_path, "checkpoint/config.json", "base/config.json", "adapter/lineage.json")
    assert folder_policy(folder) == Policy(str(folder / "checkpoint"))


def test_without_a_checkpoint_it_is_the_base_with_the_adapters_in_their_order(tmp_path):
    folder = written(tmp_path, "adapter-2/lineage.json", "adapter-1/lineage.json", "base/config.json")
    adapters = (folder / "adapter-1", folder / "adapter-2")
    assert folder_policy(folder) == Policy(str(folder / "base"), adapters=adapters)
    assert source_policy(LocalModel(source="local", path=str(folder))) == folder_policy(folder)


@pytest.mark.parametrize("place", ["", "checkpoint/", "base/"])
def test_what_lacks_weights_is_refused_wherever_they_should_be(tmp_path, place):
    folder = written(tmp_path, f"{place}config.json", f"{place}tokenizer.json")
    with pytest.raises(Refusal, match="lacks safetensors weights") as refused:
        check_model(LocalModel(source="local", path=str(folder)))
    assert refused.value.where == "model.path"
    check_model(LocalModel(source="local", path=str(written(folder, f"{place}model.safetensors"))))


def test_a_template_is_read_wherever_the_policy_lies(tmp_path):
    (tmp_path / "my.jinja").write_text("mine")
    for folder in (written(tmp_path / "plain", "config.json"), written(tmp_path / "parts", "base/config.json")):
        policy = source_policy(LocalModel(source="local", path=str(folder), chat_template=str(tmp_path / "my.jinja")))
        assert policy.chat_template == "mine"
    with pytest.raises(Refusal, match="which is no file") as refused:
        source_policy(LocalModel(source="local", path=str(tmp_path), chat_template="none.jinja"))
    assert refused.value.where == "model.chat_template"
