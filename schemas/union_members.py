"""The models of a union: which one a section is meant to be, and fields in it that only another one has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel


def models(annotation: Any) -> list[type[BaseModel]]:
    """The models inside an annotation: itself, or the members of a union or the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType) or get_args(annotation):
        return [model for part in get_args(annotation) for model in models(part)]
    return []


def tags(model: type[BaseModel]) -> set[Any]:
    """Literal values by which a union recognises this model."""
    return {value for field in model.model_fields.values() for value in get_args(field.annotation) if isinstance(value, str)}


def member(choices: Iterable[type[BaseModel]], field: str, kind: Any) -> type[BaseModel] | None:
    """The model whose field may be `kind`."""
    named = (model for model in choices if field in model.model_fields)
    return next((model for model in named if kind in get_args(model.model_fields[field].annotation)), None)


def without_leftovers(document: Any, annotation: Any) -> Any:
    """The document without fields that only other members of a section's union have.

    A form keeps the fields of LoRA when a person switches `peft` to IA³. Fields that no member has stay, to be refused.
    """
    if isinstance(document, list):
        return [without_leftovers(item, annotation) for item in document]
    if not isinstance(document, Mapping):
        return document
    choices = models(annotation)
    meant = [model for model in choices if _says_so(model, document)] if len(choices) > 1 else choices
    if len(meant) != 1:
        return document
    own = meant[0].model_fields
    foreign = {name for model in choices for name in model.model_fields} - own.keys()
    kept = {name: value for name, value in document.items() if name not in foreign}
    return {name: without_leftovers(value, own[name].annotation) if name in own else value for name, value in kept.items()}


def _says_so(model: type[BaseModel], document: Mapping[Any, Any]) -> bool:
    """Whether a section names this model by a field that a union is told apart by, or leaves out one that has a default."""
    told_by = {name: field for name, field in model.model_fields.items() if get_origin(field.annotation) is Literal}
    alone = {name: field for name, field in told_by.items() if len(get_args(field.annotation)) == 1}
    return bool(alone) and all(document.get(name, field.default) in get_args(field.annotation) for name, field in alone.items())
