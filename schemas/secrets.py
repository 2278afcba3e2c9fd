"""Credentials in addresses: a recipe names them, the environment gives them, and logs, results and MLflow never see them."""

from __future__ import annotations

import base64
import functools
import html
import json
import os
import re
from urllib.parse import quote, quote_plus, unquote

from schemas.text import HIDDEN

# Names of query parameters whose values are secrets: as a word of the name (`X-Amz-Signature`, `sort_key`), or anywhere in it.
_WORD = re.compile(r"(?:^|[^a-z])(?:sig|auth|code|pass|pwd|jwt|sas)(?:[^a-z]|$)|key(?:[^a-z]|$|id)", re.I)
_PART = re.compile(r"token|secret|credential|password|passwd|passphrase|signature|odbc_connect|authorization|delegation", re.I)
_END = r"\s\"'<>"
_DATABASE = r"(?:postgres(?:ql)?|mysql|mariadb|mssql|oracle|redis|mongodb|amqp)(?:\+\w{1,32})?"
GIVEN = re.compile(r"\$\{([A-Za-z_]\w*)\}")

# What stands before the last @ is a user and a password where a password is written, which may have @ and / in it, and a user
# alone where the @ comes before the first slash: `s3://bucket/a@b` and `http://host:80/a@b` have neither. Of bounded length, so
# that no text takes long.
_USER = re.compile(
    rf"(?<=://)(?:[^/?#@:{_END}]{{0,256}}:(?!\d{{1,5}}(?:[/?#{_END}]|$))[^{_END}]{{0,512}}|[^/?#@{_END}]{{1,512}})(?=@)"
    rf"|\b(?P<scheme>{_DATABASE}://)[^/?#{_END}:]{{1,256}}:[^{_END}]{{0,512}}(?=@)",
    re.I,
)
_QUERY = re.compile(rf"(?<=[?&;#])(?P<name>[\w.$%-]{{1,64}})=(?P<value>[^&;{_END}]+)")
# Outside of addresses: connection strings, headers, and what libraries say of their arguments.
_LOOSE = re.compile(
    rf"(?P<name>\b(?:password|passwd|pwd|secret|access_token|api[_-]?key)['\"]?\s?[:=]\s?['\"]?)[^&;,){_END}]+"
    r"|(?P<header>authorization['\"]?\s?[:=]\s?b?['\"]?(?:bearer|basic|token)\s)[^\s\"',]+",
    re.I,
)
# Tokens that say by their form what they are: of Hugging Face, GitHub, GitLab, OpenAI and its like, Slack.
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}|sk-[\w-]{32,}|xox[abeoprs]-[\w-]{20,})"
)
_VARIABLE = re.compile(
    r"(?:^|_)(?:TOKENS?|SECRET|AUTH_STRING)(?:_|$)|(?:^|_)SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_KEY|CONNECTION_STRING"
    r"|_(?:KEY|PASS|PWD|AUTH|SAS)$"
)
SHORTEST = 4  # characters of a value of the environment that is hidden wherever it stands
used: set[str] = set()  # variables that an address named: their values are hidden, whatever their name


def without_credentials(text: str) -> str:
    """The text with every user, password and signature inside an address, and every secret of the environment, as `***`."""
    for value in _secret_values():
        text = text.replace(value, HIDDEN)
    if "=" in text or ":" in text:
        text = _USER.sub(_without_user, text) if "@" in text else text
        text = _QUERY.sub(lambda found: HIDDEN if _authorises(found) else found[0], text)
        text = _LOOSE.sub(lambda found: f"{found['name'] or found['header']}{HIDDEN}", text)
    return _TOKEN.sub(HIDDEN, text)


def shown(address: str) -> str:
    """The same for one address, in which a password may have what ends an address elsewhere: a space, a quote."""
    return without_credentials(_whole(address))


def _without_user(found: re.Match[str]) -> str:
    scheme = found["scheme"] or ""
    return found[0] if _named(found) in ("", ":") else f"{scheme}{HIDDEN}"


def _named(found: re.Match[str]) -> str:
    """User and password as they are written, without what the environment gives."""
    return GIVEN.sub("", found[0].removeprefix(found["scheme"] or ""))


def _authorises(found: re.Match[str]) -> bool:
    name = unquote(found["name"])
    secret = _WORD.search(name) or _PART.search(name)
    return bool(secret and GIVEN.sub("", found["value"]))


def _secret_values() -> list[str]:
    """The longest first: one may be a part of another."""
    names = {name for name in os.environ if _VARIABLE.search(name)} | used
    given = {value for name in names if len(value := os.environ.get(name, "")) >= SHORTEST}
    return sorted({form for value in given for form in _spelt(value)}, key=len, reverse=True)


@functools.lru_cache(maxsize=256)
def _spelt(value: str) -> tuple[str, ...]:
    """A value as it stands, and as addresses, JSON, Python, HTML and headers spell it."""
    in_addresses = quote(value, safe=""), quote(value), quote_plus(value), unquote(value)
    in_texts = json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1], html.escape(value)
    return value, *in_addresses, *in_texts, base64.b64encode(value.encode(errors="surrogateescape")).decode()


def _whole(address: str) -> str:
    """An address without the characters that would end it in a running text."""
    return re.sub(rf"[{_END}]", "_", address) if re.match(r"[\w.+:-]*://", address) else address


def holds_secret(address: str) -> bool:
    """Whether an address has a password, a token in the user's place of a web address, a query that authorises, or a known token.

    A user alone is none (`abfs://container@account`, `postgresql://user@host`), nor is `${NAME}`.
    """
    if _TOKEN.search(address):
        return True
    if "://" not in address:
        return False
    address = _whole(address)
    user = _USER.search(address)
    named = _named(user) if user else ""
    password = named.partition(":")[2] or (named if ":" not in named and address.lower().startswith("http") else "")
    return bool(password) or any(map(_authorises, _QUERY.finditer(address)))
