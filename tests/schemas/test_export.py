"""deployments/recipe.schema.json: current, complete, and in agreement with the recipes that ship."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from schemas.export import TARGET, recipe_schema, rendered
from schemas.load import load_recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "deployments" / "recipes").glob("*.yaml"))


def nodes(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object inside the schema with its path."""
    if isinstance(schema, dict):
        yield path, schema
        for name, child in schema.items():
            yield from nodes(child, f"{path}/{name}")
    if isinstance(schema, list):
        for child in schema:
            yield from nodes(child, path)


def test_the_file_is_what_the_code_says():
    assert TARGET.read_text(encoding="utf-8") == rendered(), "run: python -m schemas.export"


def test_no_pattern_repeats_letters_of_unicode_a_bounded_number_of_times():
    """Each repetition copies a thousand ranges: bounded by 100, it takes 25 ms to compile, in each contract that has it."""
    patterns = {node["pattern"] for _, node in nodes(recipe_schema()) if isinstance(node.get("pattern"), str)}
    assert len(patterns) > 5
    assert [each for each in patterns if re.search(r"\\w[^\[\]]*\]?\{\d", each)] == []


def test_the_schema_is_valid_and_names_its_draft():
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert (schema["$schema"], schema["title"]) == ("https://json-schema.org/draft/2020-12/schema", "posttrain recipe")


def test_every_field_is_described():
    fields = [
        (f"{path}/{name}", field)
        for path, node in nodes(recipe_schema())
        if node.get("type") == "object"
        for name, field in node.get("properties", {}).items()
    ]
    assert len(fields) > 100
    assert [path for path, field in fields if not field.get("description")] == []


def test_tagged_unions_are_rendered_for_the_prefect_form():
    """Prefect shows `oneOf` with a discriminator as raw JSON; `anyOf` gives one tab per kind: five kinds of model."""
    schema = recipe_schema()
    assert [path for path, node in nodes(schema) if {"oneOf", "discriminator"} & node.keys()] == []
    assert [kind["$ref"] for kind in schema["properties"]["model"]["anyOf"]] == [
        f"#/$defs/{name}" for name in ("ScratchModel", "HubModel", "LocalModel", "GgufModel", "RegistryModel")
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_that_ship_pass_both_the_schema_and_the_loader(path):
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    jsonschema.validate(document, json.loads(TARGET.read_text(encoding="utf-8")))
    assert load_recipe(path).name == document["name"]


@pytest.mark.parametrize(
    ("section", "field", "value"), [("sft", "epoch", 1), ("sft", "epochs", 0), ("alignment", "algorithm", "ppo")]
)
def test_the_schema_refuses_what_the_loader_refuses(section, field, value):
    """An editor must mark an unknown field, a number out of range and an unknown kind."""
    document = yaml.safe_load(RECIPES[0].read_text(encoding="utf-8"))
    document.setdefault(section, {})[field] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, recipe_schema())
