"""What letters and signs of a text are: an e-mail address, an address of IPv6, an account (IBAN), a key or token."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from posttrain.text.personal_numbers import Finding

_LOCAL = re.compile(rb"[\w.%+'-]{1,64}$", re.A)
_DOMAIN = re.compile(
    rb"(?:[\w\x80-\xff](?:[\w\x80-\xff-]{0,61}[\w\x80-\xff])?\.){1,6}([A-Za-z]{2,24}|xn--[\w-]{2,59})(?![\w-])", re.A
)
_BRACKETED = re.compile(rb"[\w.+-]{1,64}[ ]?$")
_SPELT_DOMAIN = re.compile(rb"[\[(]at[\])][ ]?[\w-]{1,63}(?:(?:\.|[ ]?[\[(]dot[\])][ ]?)[\w-]{1,63}){1,4}", re.I)
_FILES: Final = frozenset(
    b"png jpg jpeg gif webp svg ico css scss js mjs ts jsx tsx json html htm php py pyc rb java zip tgz gz tar pdf md txt xml yml"
    b" yaml so dll exe min map".split()
)
_NOBODY: Final = frozenset((b"git", b"hg", b"svn"))  # users of repositories, as in git@github.com:OWNER/NAME
_PASSWORD = re.compile(rb"://([^\s/:@]{1,64}:[^\s/@]{1,128})$")
_USER_OF_ADDRESS = re.compile(rb"://[^\s/:@]{0,64}$")
_IPV6 = re.compile(rb"(?:[0-9A-Fa-f]{0,4}:){2,7}(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]{0,4})(?:%\w{1,15})?(?!\w|:[\w:])")

# What a shortened address begins with: the space that is given out (RFC 4291, 4193), or an IPv4 address inside (RFC 4291, 6052).
_UNICAST = re.compile(rb"[23][0-9a-f]{3}:|f[cdef][0-9a-f]{2}:|(?:0{0,4}:)*:ffff:|64:ff9b:", re.I)

# Letters of an IBAN by country (the registry of SWIFT, ISO 13616).
_IBAN: Final = {
    country[:2]: int(country[2:])
    for country in (
        b"AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28"
        b" EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26"
        b" IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28"
        b" NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25"
        b" SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
    ).split()
}
_ACCOUNT = re.compile(rb"[A-Z]{2}\d{2}(?:(?:[ -]|\xc2\xa0|\xe2\x80\xaf)?[A-Z0-9]){11,30}")

_MIXED = rb"(?=[\w-]{0,256}\d)"
_PEM = rb"(?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_KEY = re.compile(
    rb"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])"
    rb"|gh[opsur]_[A-Za-z0-9]{30,255}|github_pat_\w{22,255}|glpat-[\w-]{20,64}"
    rb"|eyJ[\w-]{8,4096}\.[\w-]{8,8192}(?:\.[\w-]{8,4096})+"
    rb"|sk-" + _MIXED + rb"(?:[A-Za-z]{2,12}\d?\d?-){0,3}[\w-]{20,256}|[srp]k_(?:live|test)_[A-Za-z0-9]{16,256}"
    rb"|xox[abeoprs]-[\w-]{10,256}|AIza[\w-]{35}|hf_[A-Za-z0-9]{20,64}|npm_[A-Za-z0-9]{30,64}|SG\.[\w-]{16,64}\.[\w-]{16,64}"
    rb"|pypi-[\w-]{40,256}|dop_v1_[0-9a-f]{64}"
    rb"|-----BEGIN " + _PEM + rb"(?:(?:[^-]|-(?!----)){0,16384}-----END " + _PEM + rb"|[A-Za-z0-9+/=\s\\]{0,16384})",
    re.A,
)
_NAMED = re.compile(
    rb"(?:aws_?secret_?(?:access_?)?key|api[_-]?key|api[_-]?secret|api[_-]?token)[\"']?\s{0,3}(?:[:=]|is|=>)\s{0,3}[\"']?"
    rb"(" + rb"(?=[\w/+=.-]{0,128}\d)(?=[\w/+=.-]{0,128}[A-Za-z])[\w/+=.-]{16,128})",
    re.I | re.A,
)


def mail(text: bytes, at: int) -> Iterator[Finding]:
    """The e-mail address around an @, or around a bracketed `at`; a user and a password in an address count as a secret."""
    if text[at] != ord("@"):
        yield from _spelt_out(text, at)
        return
    if password := _PASSWORD.search(text, max(0, at - 200), at):
        yield "secret", password.start(1), at
        return
    before, domain = _LOCAL.search(text, max(0, at - 64), at), _DOMAIN.match(text, at + 1)
    if not before or not domain or text[before.start() - 1 : before.start()] == b"@":
        return
    local = before[0].lstrip(b".'%-")
    if _is_mail(local, domain[1].lower(), text[domain.end() : domain.end() + 2], text[max(0, at - 80) : at]):
        yield "email", at - len(local), domain.end()


def _spelt_out(text: bytes, at: int) -> Iterator[Finding]:
    before, domain = _BRACKETED.search(text, max(0, at - 66), at), _SPELT_DOMAIN.match(text, at)
    if before and domain:
        yield "email", before.start(), domain.end()


def _is_mail(local: bytes, top: bytes, behind: bytes, before: bytes) -> bool:
    """Not the name of a file, nor a repository, nor the user in an address of the web."""
    if not local or top in _FILES or b".." in local:
        return False
    repository = local.lower() in _NOBODY or (behind[:1] == b":" and behind[1:].isalpha())
    return not repository and not _USER_OF_ADDRESS.search(before)


def colons(text: bytes, at: int) -> Iterator[Finding]:
    """An address of IPv6; the loopback and unspecified ones are nobody's, `a::b` is a name in C++, `1::2` a slice in Python."""
    match = _IPV6.match(text, at)
    if not match:
        return
    written = match[0] if match[0].endswith(b"::") else match[0].removesuffix(b":")  # which ends a clause
    try:
        address = ipaddress.IPv6Address(written.decode())
    except ValueError:
        return
    if (_UNICAST.match(written) or written.count(b"::") == 0) and not (
        address.is_loopback or address.is_unspecified or address.is_multicast
    ):
        yield "ip", at, at + len(written)


def word(text: bytes, at: int) -> Iterator[Finding]:
    """An account, or a key that says by its form what it is, or a value that is named as one."""
    if account := _ACCOUNT.match(text, at):
        end = _end_of_account(account[0])
        if end and not text[at + end : at + end + 1].isalnum():
            yield "iban", at, at + end
            return
    if key := _KEY.match(text, at):
        yield "secret", at, key.end()
    elif named := _NAMED.match(text, at):
        yield "secret", *named.span(1)


def _end_of_account(written: bytes) -> int:
    """Where an IBAN ends that begins these letters, by the length of its country and modulo 97 (ISO 7064); else 0."""
    length, letters, end = _IBAN.get(written[:2], 0), b"", 0
    while len(letters) < length and end < len(written):
        letters += written[end : end + 1] if written[end : end + 1].isalnum() else b""
        end += 1
    if not length or len(letters) < length or not 2 <= int(letters[2:4]) <= 98:
        return 0
    return end if int("".join(str(int(chr(each), 36)) for each in letters[4:] + letters[:4])) % 97 == 1 else 0
