"""The address and the key of an endpoint as they are used: what the recipe names is taken from the environment, and looked at."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from urllib.parse import urlsplit

import httpx
from pydantic_core import PydanticCustomError

from schemas.addresses import opened
from schemas.endpoint import BLOCK, Server, refuse_address
from schemas.errors import Refusal
from schemas.secrets import used


def opened_url(spec: Server, field: str) -> str:
    """The base address to ask, without a slash at its end.

    Raises:
        Refusal: when it holds a secret or names a variable that is not set, is no base address, or is one without TLS outside of
            this machine and private networks.
    """
    url = opened(spec.url, f"{field}.url")
    try:
        refuse_address(url, spec.allow_http)
        _ = httpx.URL(url).host
    except (httpx.InvalidURL, UnicodeError) as error:  # a host that no name server could be asked for
        raise Refusal(
            where=f"{field}.url", found=f"{spec.url} ({error})", allowed="the address of a server", remedy="correct the host"
        ) from None
    except PydanticCustomError as error:
        parts = dict(error.context or {})
        found = parts["found"] if url == spec.url else f"{spec.url}, which stands for {url}"
        raise Refusal(where=f"{field}.url", found=found, allowed=parts["allowed"], remedy=parts["remedy"]) from None
    if url.lower().startswith("http:"):
        _refuse_public(urlsplit(url).hostname or "", f"{field}.url")
    return url.rstrip("/")


def check_endpoint(spec: Server, field: str) -> None:
    """Check what can be known of an endpoint before it is asked; a Prefect block is read when the flow runs.

    Raises:
        Refusal: as `opened_url` and `opened_key`.
    """
    opened_url(spec, field)
    if spec.key is not None and not spec.key.startswith(BLOCK):
        opened_key(spec, field)


def _refuse_public(host: str, where: str) -> None:
    """Without TLS everybody on the way reads the key and the texts, and may change the verdicts."""
    try:
        found = {str(each[4][0]).partition("%")[0] for each in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        found, said = set(), f" ({error})"
    else:
        said = f" ({', '.join(sorted(found))})"
    if not found or not all(map(_is_private, found)):
        raise Refusal(
            where=where,
            found=f"http to {host}{said}",
            allowed="https, or with allow_http=true http to this machine or a private network",
            remedy="put TLS before the server, or ask it by a tunnel to this machine",
        )


def _is_private(address: str) -> bool:
    """Whether an address is this machine's or a private network's; link-local ones are where clouds keep their machines' keys."""
    ip = ipaddress.ip_address(address)
    return (ip.is_loopback or ip.is_private) and not (ip.is_link_local or ip.is_unspecified or ip.is_multicast)


def opened_key(spec: Server, field: str) -> str | None:
    """The key, which no message, log or file shows from then on; None where the recipe names none.

    Raises:
        Refusal: when it is not there, or cannot be sent in a header.
    """
    if spec.key is None:
        return None
    key = _of_block(spec.key, f"{field}.key") if spec.key.startswith(BLOCK) else opened(spec.key, f"{field}.key")
    if not re.fullmatch(r"[\x21-\x7e]{1,4096}", key):
        raise Refusal(
            where=f"{field}.key",
            found=f"{spec.key}, whose value has a space, a line feed or another character that no header takes",
            allowed="visible characters of ASCII",
            remedy="set it again; a file that was read may end in a line feed",
        )
    return key


def variable_of(block: str) -> str:
    """The environment variable in which processes of a run find the value of `block://NAME`; only `tasks` knows Prefect."""
    return f"POSTTRAIN_BLOCK_{block.removeprefix(BLOCK).replace('-', '_').upper()}"


def _of_block(block: str, where: str) -> str:
    name = variable_of(block)
    used.add(name)
    if not os.environ.get(name):
        raise Refusal(
            where=where,
            found=f"{block}, which was not read",
            allowed="a Secret block of the Prefect server that this run uses",
            remedy=f"make the block, or set {name}",
        )
    return os.environ[name]
