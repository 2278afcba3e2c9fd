"""The form of a recipe: what its schema promises to Prefect's pages, and that what a page fills in changes nothing."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from flows.deployed.chain import post_training
from flows.deployed.form import form_of, form_values, recipe_of_form
from schemas.load import apply_overrides, load_recipe, read_yaml, validate_recipe
from schemas.recipe import Recipe

RECIPES = sorted((Path(__file__).parents[3] / "deployments" / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def form() -> dict:
    return form_of(post_training.fn)


def nodes(node):
    if isinstance(node, dict):
        yield node
        for name, value in node.items():
            if name != "default":
                yield from nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from nodes(value)


def test_every_union_has_tabs_and_every_field_a_place_and_a_title(form):
    assert not [node for node in nodes(form) if "oneOf" in node or "discriminator" in node]
    sections = [node for node in nodes(form) if isinstance(node.get("properties"), dict) and node.get("type") == "object"]
    assert len(sections) > 40
    for section in sections:
        fields = section["properties"].values()
        assert [field["position"] for field in fields] == list(range(len(fields)))
        assert all(field["title"] for field in fields)
        assert "additionalProperties" not in section


def test_the_first_tab_is_that_of_the_default(form):
    for section, method in (("DPO", "LoRA"), ("SFT", "Full")):
        assert form["definitions"][section]["properties"]["peft"]["anyOf"][0] == {"$ref": f"#/definitions/{method}"}
    assert form["definitions"]["Recipe"]["properties"]["alignment"]["anyOf"][0] == {"$ref": "#/definitions/NoAlignment"}
    assert form["definitions"]["Data"]["properties"]["corpus"]["anyOf"][0] == {"type": "null"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_the_same_after_its_values_were_shown(form, path):
    recipe = load_recipe(path)
    values = form_values(recipe)
    jsonschema.validate({"recipe": values, "store": "/s"}, form)
    assert validate_recipe(recipe_of_form(values), "form") == recipe


def filled(value, schema: dict, definitions: dict):
    """A section as a page sends it: every field that was left out has its default."""
    if not isinstance(value, dict):
        return value
    sections = [each for each in _sections(schema, definitions) if value.keys() <= each["properties"].keys()]
    if not sections:
        return value
    fields = sections[0]["properties"]
    given = {name: filled(each, fields[name], definitions) for name, each in value.items()}
    whole = {name: {} for name, field in fields.items() if "$ref" in field}
    unsaid = whole | {name: field["default"] for name, field in fields.items() if "default" in field}
    return {name: filled(each, fields[name], definitions) for name, each in unsaid.items()} | given


def _sections(schema: dict, definitions: dict):
    for each in schema.get("anyOf", [schema]):
        each = definitions[each["$ref"].rpartition("/")[2]] if "$ref" in each else each
        if "properties" in each:
            yield each


@pytest.mark.parametrize("preset", ["gopher", "c4", "fineweb-code", "llama3"])
def test_defaults_that_a_page_fills_in_leave_the_preset_as_it_is(form, preset, tiny):
    words = [f"filtering.preset={preset}", "filtering.rules.words.min=7", "filtering.rules.hash_per_word=null"]
    recipe = validate_recipe(apply_overrides(read_yaml(tiny.recipe, "recipe"), words), "tiny")
    sent = filled(form_values(recipe), {"$ref": "#/definitions/Recipe"}, form["definitions"])
    assert sent["filtering"]["rules"]["stop_words"] is None
    assert sent["filtering"]["rules"]["hash_per_word"] == "off"
    assert sent["filtering"]["lines"]["drop_javascript"] is None
    jsonschema.validate({"recipe": sent, "store": "/s"}, form)
    read = validate_recipe(recipe_of_form(sent), "form")
    assert read.filtering.resolved() == recipe.filtering.resolved()
    assert read.filtering.resolved_lines() == recipe.filtering.resolved_lines()
    assert read.filtering.resolved().hash_per_word is None
    assert read == recipe


def test_a_path_and_nonsense_pass_as_they_are():
    assert recipe_of_form("/recipes/a.yaml") == "/recipes/a.yaml"
    assert recipe_of_form({"filtering": {"rules": 3}, "x": 1}) == {"filtering": {"rules": 3}, "x": 1}


def test_a_section_that_was_switched_keeps_nothing_of_the_other_kind(tiny):
    recipe = load_recipe(tiny.recipe)
    values = form_values(recipe)
    values["alignment"]["peft"] = {"method": "ia3", "target_modules": "auto", "r": 8, "alpha": 16, "dropout": 0}
    read = validate_recipe(recipe_of_form(values), "form")
    assert isinstance(read, Recipe)
    assert read.alignment.peft.method == "ia3"
