"""The form in which a person fills in a recipe in Prefect's pages: its JSON schema, arranged for what these pages draw.

The old pages show `oneOf` as raw JSON and `anyOf` as tabs; the new ones start with the first tab whatever the default is, leave a
box for a value that can only be one, call a section "Field" that has no title, and sort by `position`, since PostgreSQL keeps no
order of keys. Both keep the fields of the kind that a person switches away from: so the form's schema allows what the recipe does
not, and `recipe_of_form` takes the leftovers away.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final

from prefect.utilities.callables import parameter_schema

from schemas.filter_rules import Bounds, FilterRules, LineRules
from schemas.recipe import Recipe
from schemas.union_members import without_leftovers

OFF = "off"
PARTIAL: Final = {("filtering", "rules"): FilterRules, ("filtering", "lines"): LineRules}
"""Sections in which a field that is left out keeps a preset's value. A page fills in every field, so here null says nothing, and
`off` is what null is in a recipe."""
PRESETS_OWN = {"type": "null", "title": "preset's"}
SWITCHED_OFF = {"const": OFF, "enum": [OFF], "default": OFF, "type": "string", "title": OFF}


def recipe_of_form(given: Any) -> Any:
    """A recipe as a form sends it, without what nobody said: fields of kinds that were switched away from, a preset's own values.

    Anything but a section is returned as it is.
    """
    if not isinstance(given, Mapping):
        return given
    return _in_partial(without_leftovers(given, Recipe), _said)


def form_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe as a form shows it; `recipe_of_form` is the way back."""
    values: dict[str, Any] = _in_partial(recipe.document, _written)
    return values


def _in_partial(document: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """The document with the sections of `PARTIAL` changed."""
    changed = dict(document)
    for outer, inner in PARTIAL:
        section = changed.get(outer)
        if isinstance(section, Mapping) and isinstance(section.get(inner), Mapping):
            changed[outer] = {**section, inner: change(section[inner])}
    return changed


def _said(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _said(each) for name, each in value.items() if each is not None}
    return None if value == OFF else value


def _written(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _written(each) for name, each in value.items()}
    return OFF if value is None else value


@functools.cache
def form_of(function: Callable[..., Any]) -> dict[str, Any]:
    """JSON schema of the parameters of a flow's function, as Prefect's pages draw it best."""
    schema: dict[str, Any] = parameter_schema(function).model_dump(mode="json", exclude_unset=True)
    definitions: dict[str, Any] = schema.get("definitions", {})
    for model in (*PARTIAL.values(), Bounds):
        fields = definitions[model.__name__]["properties"]
        definitions[model.__name__]["properties"] = {name: _of_preset(field) for name, field in fields.items()}
    arranged: dict[str, Any] = _arranged(schema, definitions)
    return arranged


def _of_preset(field: dict[str, Any]) -> dict[str, Any]:
    """A field that is the preset's own unless somebody says otherwise."""
    members = field.get("anyOf") or [
        {name: value for name, value in field.items() if name not in ("title", "description", "default")}
    ]
    given = [each for each in members if each != {"type": "null"}]
    off = [SWITCHED_OFF] if len(given) < len(members) else []
    about = {name: value for name, value in field.items() if name in ("title", "description")}
    return about | {"anyOf": [PRESETS_OWN, *given, *off], "default": None}


def _arranged(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_arranged(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    node = {name: value if name == "default" else _arranged(value, definitions) for name, value in node.items()}
    if isinstance(node.get("properties"), dict):
        node.pop("additionalProperties", None)
        node["properties"] = {
            name: {"title": _title(name)} | field | {"position": place}
            for place, (name, field) in enumerate(node["properties"].items())
        }
    if "const" in node:
        node |= {"enum": [node["const"]], "default": node["const"]}
    if union := node.pop("oneOf", None) or node.pop("anyOf", None):
        node.pop("discriminator", None)
        node["anyOf"] = _default_first(_flat(union), node, definitions)
    if isinstance(node.get("default"), dict):  # a page would send all of it; its fields have defaults of their own
        del node["default"]
    return node


def _flat(members: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Members of unions inside the union are its own."""
    return [inner for each in members for inner in (_flat(each["anyOf"]) if each.keys() == {"anyOf"} else [each])]


def _default_first(members: list[dict[str, Any]], node: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    if "default" not in node:
        return members
    return sorted(members, key=lambda each: not _fits(node["default"], each, definitions))  # stable


def _fits(value: Any, member: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """Whether a default is of this member of its union, by its type and by the tag of a section."""
    if "$ref" in member:
        member = definitions.get(member["$ref"].rpartition("/")[2], {})
    if not isinstance(value, dict):
        return member.get("type") == _TYPES.get(type(value)) and value in member.get("enum", [value])
    fields = member.get("properties", {})
    tags = {name: field["const"] for name, field in fields.items() if "const" in field}
    return member.get("type") == "object" and value.keys() <= fields.keys() and all(value.get(n) == c for n, c in tags.items())


_TYPES = {type(None): "null", str: "string", int: "integer", float: "number", bool: "boolean", list: "array"}
_NAMES = {"eos": "EOS", "kl": "KL", "mlflow": "MLflow", "peft": "PEFT", "sft": "SFT", "uri": "URI"}


def _title(name: str) -> str:
    """The name of a field in words."""
    words = [_NAMES.get(word, word) for word in name.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])
