"""Paths in recipes: a worker has another working directory than whoever wrote one, so that only whole paths mean the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.data import SOURCES
from schemas.errors import Refusal
from schemas.load import validate_recipe
from schemas.recipe import Recipe


def require_absolute(store: str) -> None:
    """A worker runs in a folder of its own, which is deleted with the run: a relative store would be lost with it.

    Raises:
        Refusal: for a relative path. `Store` refuses what is no folder.
    """
    if "://" not in store and not Path(store).expanduser().is_absolute():
        raise Refusal(
            where="store",
            found=f"{store}, a relative path",
            allowed="an absolute path that is the same folder on every worker",
            remedy="give the whole path, /srv/posttrain for one",
        )


def with_whole_paths(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with every relative path as one from the root; `folder` is what they are relative to."""
    document = recipe.document
    for _, section, name in list(_relative(document, folder)):
        section[name] = str(folder / section[name])
    return validate_recipe(document, recipe.name)


def refuse_relative(recipe: Recipe) -> None:
    """Refuse a recipe that workers would read in another way.

    Raises:
        Refusal: for the first relative path.
    """
    for field, section, name in _relative(recipe.document, Path()):
        raise Refusal(
            where=field,
            found=f"{section[name]}, a relative path",
            allowed="a whole path that every worker can read, or an address",
            remedy="write the whole path; `posttrain trigger` and `posttrain deploy` do it from the current folder",
        )


def _relative(document: dict[str, Any], folder: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Dotted name, section and field of every relative path."""
    data = document["data"]
    yield from ((f"data.{name}", data, name) for name in SOURCES if _is_relative(data.get(name)))
    models = {"model": document["model"], "reward.model": (document.get("reward") or {}).get("model")}
    for place, model in models.items():
        if not model:
            continue
        if _is_relative(model.get("path")):
            yield f"{place}.path", model, "path"
        template = model.get("chat_template")  # a name, a file, or the template itself
        if _is_relative(template) and len(template) < 1024 and (folder / template).is_file():
            yield f"{place}.chat_template", model, "chat_template"


def _is_relative(value: str | None) -> bool:
    return bool(value) and "://" not in str(value) and not Path(str(value)).expanduser().is_absolute()
