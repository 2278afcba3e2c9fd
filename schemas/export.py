"""The recipe as a JSON schema, for editors and for the Prefect form: ``python -m schemas.export`` writes it to deployments/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from schemas.recipe import Recipe

TARGET = Path(__file__).resolve().parent.parent / "deployments" / "recipe.schema.json"


class AnyOfSchema(GenerateJsonSchema):
    """Renders a tagged union as `anyOf` without `discriminator`.

    Prefect's form shows `oneOf` as raw JSON and `anyOf` as one tab per kind. Validation keeps the tag, hence precise errors.
    """

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """The union's members under `anyOf`."""
        rendered = super().tagged_union_schema(schema)
        return {"anyOf": rendered["oneOf"]} if "oneOf" in rendered else rendered


def recipe_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of what a recipe file may contain."""
    schema = Recipe.model_json_schema(schema_generator=AnyOfSchema, mode="validation")
    return {"$schema": AnyOfSchema.schema_dialect} | schema | {"title": "posttrain recipe"}


def rendered() -> str:
    """The content of deployments/recipe.schema.json."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(rendered(), encoding="utf-8")
