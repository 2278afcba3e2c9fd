"""Addresses of a recipe: without secrets as they are written, with those of the environment when they are opened."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from schemas.base import refused
from schemas.errors import Refusal
from schemas.secrets import GIVEN, holds_secret, shown, used

ALLOWED = "an address without user, password, signature or token"
REMEDY = (
    "write ${NAME} there and set the environment variable NAME; or use what the library reads by itself: "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, PGPASSWORD, AWS_*, fsspec's configuration, a Prefect block"
)


def refuse_secrets(document: Any) -> None:
    """Refuse a document with a secret in any of its texts, by the dotted name of the field.

    Raises:
        PydanticCustomError: for validators, of the kind `refused`.
    """
    for field, text in _texts(document):
        if holds_secret(text):
            raise refused(where=field, found=f"{shown(text)}, which holds a credential", allowed=ALLOWED, remedy=REMEDY)


def _texts(document: Any, field: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(document, str):
        yield field, document
    elif isinstance(document, Mapping):
        for name, value in document.items():
            yield from _texts(value, f"{field}.{name}" if field else str(name))
    elif isinstance(document, list | tuple):
        for value in document:
            yield from _texts(value, field)


def opened(address: str, field: str) -> str:
    """The address to open: each `${NAME}` is the environment's, and hidden from then on.

    Raises:
        Refusal: when it holds a secret itself, or names a variable that is not set.
    """
    if holds_secret(address):
        raise Refusal(where=field, found=f"{shown(address)}, which holds a credential", allowed=ALLOWED, remedy=REMEDY)
    names = GIVEN.findall(address)
    for name in names:
        if not os.environ.get(name):
            raise Refusal(
                where=field,
                found=f"{address}, and {name} is not set",
                allowed="environment variables that are set",
                remedy=f"set {name}",
            )
    used.update(names)
    return GIVEN.sub(lambda found: os.environ[found[1]], address)
