"""An OpenAI-compatible endpoint: where it is, which model answers, who pays, and how far a run may go in asking it."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from schemas.base import Frozen, refused
from schemas.fields import AboveZero, Number, Positive

KEY = re.compile(r"\$\{[A-Za-z_]\w*\}|block://[a-z0-9]+(-[a-z0-9]+)*")
BLOCK = "block://"


class Server(Frozen):
    """A server of OpenAI's protocol, and how it is asked."""

    url: Annotated[str, Field(min_length=1, max_length=2048)]
    """Base address, to which `/chat/completions` is added: `https://api.openai.com/v1`. `${NAME}` is the environment's."""
    model: Annotated[str, Field(min_length=1, max_length=256)]
    """Name of the model that answers there."""
    key: Annotated[str, Field(max_length=256)] | None = None
    """Where the key is: `${NAME}`, an environment variable, or `block://NAME`, a Secret block of Prefect; null: none is sent."""
    allow_http: bool = False
    """Allow an address without TLS, of this machine or of a private network."""
    timeout_seconds: AboveZero = 60.0
    """Longest time for one answer."""
    retries: Annotated[int, Field(ge=0, le=10), Number] = 4
    """How often a question is asked again after a failure that may pass, with growing pauses."""
    concurrency: Annotated[int, Field(ge=1, le=256), Number] = 8
    """Questions that are open at a time."""

    @model_validator(mode="after")
    def _names_its_key(self) -> Server:
        """The value is not shown: it may be the key itself."""
        if self.key is not None and not KEY.fullmatch(self.key):
            raise refused(
                where=".key",
                found="a text that names neither a variable nor a block",
                allowed="${NAME}, an environment variable, or block://NAME, a Secret block of Prefect",
                remedy="put the key into the environment, and its name here",
            )
        return self

    @model_validator(mode="after")
    def _has_a_safe_address(self) -> Server:
        """As far as it is written: what `${NAME}` stands for is looked at when it is opened."""
        if "${" not in self.url:
            refuse_address(self.url, self.allow_http)
        return self


class Endpoint(Server):
    """Chat completions over HTTP, as OpenAI's API and vLLM's server have them."""

    max_calls: Positive = 10_000
    """Requests that one evaluation may send, repeated ones included; what is left then is counted as not judged."""
    max_tokens: Positive = 512
    """Longest answer in tokens."""


def refuse_address(url: str, allow_http: bool) -> None:
    """Refuse what is no base address of an endpoint.

    Raises:
        PydanticCustomError: for validators, of the kind `refused`.
    """
    schemes = ("https", "http") if allow_http else ("https",)
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number, brackets that do not close
        parts, whole = urlsplit(""), False
    wrong = parts.scheme not in schemes or not whole or parts.username is not None or parts.query or parts.fragment
    if wrong or any(character.isspace() for character in url):
        raise refused(
            where=".url",
            found=url,
            allowed=f"{'http or ' if allow_http else ''}https://HOST[:PORT][/PATH], without user, query and fragment",
            remedy="give the base address"
            if allow_http
            else "give the base address; a local server over http needs allow_http=true",
        )
