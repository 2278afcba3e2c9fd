"""Read a recipe and turn every mistake in it into one clear refusal."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas import yaml_limits
from schemas.errors import Refusal, closest
from schemas.recipe import Recipe
from schemas.text import short
from schemas.union_members import member, models, tags

Document = TypeVar("Document", bound=BaseModel)

EXAMPLES = {"recipe": "deployments/recipes/quickstart.yaml", "sweep": "deployments/sweeps/frontier.yaml"}
REMEDIES = {
    "missing": "add the field",
    "extra_forbidden": "remove it",
    "union_tag_invalid": "choose one of these",
    "union_tag_not_found": "name the kind in this field",
}


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a YAML recipe and apply `a.b=value` overrides.

    Raises:
        Refusal: naming the field, what was found, what is allowed and what to do.
    """
    return validate_recipe(apply_overrides(read_yaml(Path(path), "recipe"), overrides), str(path))


def validate_recipe(document: Mapping[str, Any], name: str) -> Recipe:
    """Validate a recipe document; `name` says where it came from."""
    return validated(Recipe, document, name)


def validated(kind: type[Document], document: Mapping[str, Any], name: str) -> Document:
    """Validate a document of some kind; `name` says where it came from.

    Raises:
        Refusal: for the first mistake.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0], document, name, kind) from None


def read_yaml(path: Path, kind: str) -> dict[str, Any]:
    """The mapping that a YAML file holds; `kind` (`recipe`, `sweep`) says what the file should have been.

    Raises:
        Refusal: naming the file, and the line where its YAML is broken.
    """
    if not path.is_file():
        raise Refusal(
            where=str(path),
            found="no such file",
            allowed=f"a {kind} in YAML",
            remedy=f"check the path; {kind}s are in deployments/{kind}s",
        )
    if path.stat().st_size > yaml_limits.BYTES:
        raise Refusal(
            where=str(path),
            found=f"{path.stat().st_size:,} bytes",
            allowed=f"at most {yaml_limits.BYTES:,}",
            remedy=f"name a {kind}",
        )
    document = _parsed(path)
    if not isinstance(document, dict):
        raise Refusal(
            where=str(path),
            found=type(document).__name__,
            allowed=f"a mapping of {kind} fields",
            remedy=f"start from {EXAMPLES[kind]}",
        )
    return document


def _parsed(path: Path) -> Any:
    try:
        return yaml_limits.read(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise Refusal(
            where=f"{path}: byte {error.start}",
            found="bytes that are not UTF-8",
            allowed="UTF-8 text",
            remedy="save the file as UTF-8",
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise Refusal(
            where=f"{path}{line}",
            found=getattr(error, "problem", None) or "broken YAML",
            allowed="valid YAML",
            remedy="mend this line",
        ) from None
    except ValueError as error:  # a date or a number that is none
        raise Refusal(
            where=str(path), found=short(str(error)), allowed="valid YAML", remedy="put the value in quotes, or correct it"
        ) from None


def apply_overrides(document: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Set dotted fields from `a.b=value` words; values are read as YAML.

    A word that changes a section's kind (`alignment.peft.method`) takes away the document's fields that only the old kind has.
    """
    given: set[str] = set()
    for word in overrides:
        dotted, equals, value = word.partition("=")
        if not equals or not all(dotted.split(".")):
            raise Refusal(
                where=f"--set {word}",
                found="no field=value",
                allowed="a dotted field, '=', a value",
                remedy="for example --set alignment.beta=0.3",
            )
        set_field(document, dotted, _value(word, value), f"--set {dotted}", given)
        given.add(dotted)
    return document


def _value(word: str, text: str) -> Any:
    try:
        return yaml_limits.read(text, f"--set {word}")
    except (yaml.YAMLError, ValueError) as error:
        found = getattr(error, "problem", None) or "broken YAML"
        raise Refusal(
            where=f"--set {word}", found=found, allowed="a value in YAML", remedy="close brackets and quotes, or quote the value"
        ) from None


def set_field(
    document: dict[str, Any], dotted: str, value: Any, place_of_value: str, given: Container[str] = frozenset()
) -> None:
    """Set a dotted field in place; sections on the way are made where they are missing or null.

    Args:
        document: a recipe.
        dotted: the field.
        value: what it becomes.
        place_of_value: who asked, for refusals.
        given: fields that were set before in this way. They are refused where the new kind of a section has no place for them;
            those that only stood in the document are taken away.

    Raises:
        Refusal: when a name on the way holds a plain value.
    """
    *parents, last = dotted.split(".")
    if len(parents) > yaml_limits.DEPTH:
        raise Refusal(
            where=f"{place_of_value[:100]}...",
            found=f"a field {len(parents) + 1:,} levels deep",
            allowed=f"at most {yaml_limits.DEPTH}",
            remedy="name a field of the recipe",
        )
    place = document
    for depth, name in enumerate(parents):
        if place.get(name) is None:
            place[name] = {}
        place = place[name]
        if not isinstance(place, dict):
            where = ".".join(parents[: depth + 1])
            raise Refusal(
                where=place_of_value, found=f"{where} holds {short(place)}", allowed="a section", remedy=f"set {where} itself"
            )
    for name in _of_the_old_kind(parents, last, place, value):
        if ".".join([*parents, name]) not in given:
            place.pop(name, None)
    place[last] = value


def _of_the_old_kind(parents: Iterable[str], last: str, section: Mapping[str, Any], value: Any) -> set[str]:
    """Fields that a section loses when its field `last` becomes `value` and this makes it another member of a union."""
    choices: list[type[BaseModel]] = [Recipe]
    for name in parents:
        annotations = [choice.model_fields[name].annotation for choice in choices if name in choice.model_fields]
        choices = [model for annotation in annotations for model in models(annotation)]
    old, new = (member(choices, last, kind) for kind in (section.get(last), value))
    return set() if old is None or new is None else old.model_fields.keys() - new.model_fields.keys()


def _refusal(error: ErrorDetails, document: Mapping[str, Any], name: str, kind: type[BaseModel]) -> Refusal:
    context = error.get("ctx", {})
    path, siblings = _walk(error["loc"], document, kind)
    where = ".".join(path) or name
    if error["type"] == "refused":
        own = context["where"]  # of a section that several places have: `.url`, to which where it stands is added
        parts = {part: context[part] for part in ("found", "allowed", "remedy")}
        return Refusal(where=f"{where}{own}" if own.startswith(".") else own, **parts)
    found = "nothing" if error["type"] == "missing" else short(error["input"])
    allowed, remedy = error["msg"], REMEDIES.get(error["type"], "correct the value")
    if error["type"] == "extra_forbidden":
        found = f"an unknown field ({found})"
        allowed = f"fields: {', '.join(siblings)}"
        if guess := closest(path[-1], siblings):
            remedy = f"did you mean {guess}?"
    if error["type"].startswith("union_tag"):
        tag = str(context["discriminator"]).strip("'")
        where = f"{where}.{tag}"
        found = short(context["tag"]) if "tag" in context else "nothing"
        allowed = context.get("expected_tags") or "the kind"
    return Refusal(where=where, found=found, allowed=allowed, remedy=remedy)


def _walk(location: tuple[int | str, ...], document: Any, kind: type[BaseModel]) -> tuple[list[str], list[str]]:
    """The location without union tags, and the fields that the section at its end knows."""
    path: list[str] = []
    parent: list[type[BaseModel]] = []
    model: Any = kind
    for step in location:
        if isinstance(step, int) and isinstance(document, list):  # an item: of the kind that the list's annotation names
            path, document = [*path, str(step)], document[step]
            continue
        choices = models(model)
        named = next((m for m in choices if isinstance(step, str) and step in m.model_fields), None)
        if named is None and _is_tag(step, choices, document):
            model = next(m for m in choices if step in tags(m))
            continue
        if named is None and any(step == m.__name__ for m in choices):
            continue  # the tag of a union's member that is recognised by what it is
        if isinstance(step, str) and not isinstance(document, Mapping):
            continue  # the name of a union's member, such as literal['all-linear']: no field
        path.append(str(step))
        document = document.get(step) if isinstance(document, Mapping) else None
        parent, model = choices, named.model_fields[str(step)].annotation if named else None
    fields = [name for choice in parent for name in choice.model_fields] if path else []
    return path, list(dict.fromkeys(fields))


def _is_tag(step: int | str, choices: list[type[BaseModel]], section: Any) -> bool:
    """Whether a step of a location is the tag of a union's member: one that the section names, or that it has by default."""
    if not isinstance(section, Mapping) or not any(step in tags(m) for m in choices):
        return False
    unsaid = (field.default for m in choices for name, field in m.model_fields.items() if name not in section)
    return step in section.values() or any(default == step for default in unsaid)
