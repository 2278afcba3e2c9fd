"""Paths that workers read: relative ones are made whole where a person gives them, and refused where a worker would guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.deployed.paths import refuse_relative, require_absolute, with_whole_paths
from schemas.errors import Refusal
from schemas.load import validate_recipe

DOCUMENT = {
    "name": "t",
    "model": {"source": "local", "path": "models/base", "chat_template": "mine.jinja"},
    "data": {"preferences": "rows/*.jsonl", "instructions": "sample://instructions", "corpus": "/data/c.jsonl"},
    "sft": {},
    "alignment": {"algorithm": "dpo"},
}


def test_every_relative_path_becomes_whole_and_addresses_stay(tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    recipe = with_whole_paths(validate_recipe(DOCUMENT, "t"), tmp_path)
    assert recipe.model.path == str(tmp_path / "models/base")
    assert recipe.model.chat_template == str(tmp_path / "mine.jinja")
    assert recipe.data.preferences == str(tmp_path / "rows/*.jsonl")
    assert (recipe.data.instructions, recipe.data.corpus) == ("sample://instructions", "/data/c.jsonl")
    refuse_relative(recipe)


def test_a_template_by_name_is_no_path(tmp_path):
    document = DOCUMENT | {"model": DOCUMENT["model"] | {"chat_template": "chatml"}}
    assert with_whole_paths(validate_recipe(document, "t"), tmp_path).model.chat_template == "chatml"


def test_a_relative_path_on_a_worker_is_refused_by_field():
    with pytest.raises(Refusal, match=r"data\.preferences: found rows/\*\.jsonl, a relative path"):
        refuse_relative(validate_recipe(DOCUMENT, "t"))


@pytest.mark.parametrize("store", [".posttrain", "runs/store", ""])
def test_a_relative_store_is_refused(store):
    with pytest.raises(Refusal, match="a relative path"):
        require_absolute(store)


def test_a_whole_path_is_a_store(tmp_path):
    require_absolute(str(tmp_path))
    require_absolute(str(Path("~/store")))
