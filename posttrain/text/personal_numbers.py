"""What a row of digits is: an address of the Internet, a payment card, a telephone number, or nothing personal.

A finding is (kind, start, end) in bytes. Most rows of digits are none: dates, versions, sums, numbers of orders and of books.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Final

from schemas.errors import Refusal

Finding = tuple[str, int, int]

REGIONS: Final = ("US", "GB", "DE", "FR", "IN", "AU", "ES", "IT", "NL", "BR", "CH", "AT", "BE", "SE", "JP", "PL")
"""Where a number may be at home that is written without its country."""
_BLANK = rb"(?:[ ]|\xc2\xa0|\xe2\x80[\x80-\x8a\xaf])"
_DASH = rb"(?:-|\xe2\x80[\x90-\x95])"
_GAP = rb"(?:[ \-./()]|\xc2\xa0|\xe2\x80[\x80-\x8a\x90-\x95\xaf]){0,3}"
_BETWEEN = rb"(?:[ \-.]|\xc2\xa0|\xe2\x80[\x80-\x8a\x90-\x95\xaf])"
_OPEN, _CLOSED = rb"(?<![\w.+/\-])(?<!\d[ ])(?<!\d\xc2\xa0)", rb"(?!(?!x\d)\w|[.\-/:]\d|\.\w)"

_IPV4 = re.compile(rb"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d|[.-]\w)")
_CARD = re.compile(
    rb"(?<![\w.+])(?<!\d[ \-])(?:\d{12,19}|\d{4}([ -]|\xc2\xa0)\d{4}\1\d{4}\1\d{1,7}(?:\1\d{3})?"
    rb"|\d{4}([ -]|\xc2\xa0)\d{6}\2\d{4,5})(?!\w|[.\-]\d)"
)
_ABROAD = re.compile(rb"(?<![\w+])\(?(?:\+|(?<![\d.])00(?=[1-9]))[ ]?\(?\d(?:" + _GAP + rb"\d){6,14}(?!\d)")
_NORTH_AMERICA = re.compile(
    _OPEN + rb"(?:1" + _BETWEEN + rb")?(?:\(\d{3}\)" + _BETWEEN + rb"?|\d{3}" + _BETWEEN + rb")\d{3}" + _BETWEEN + rb"\d{4}"
    rb"(?!(?!x\d)\w|[.\-/]\d)"
)  # fmt: skip
# In Russia and Kazakhstan.
_BEHIND_EIGHT = re.compile(_OPEN + rb"8[ -]?(?:\(\d{3,5}\)|\d{3})[ -]?\d{1,3}(?:[ -]?\d){4,6}" + _CLOSED)
_IN_BRACKETS = re.compile(rb"\(\d{1,4}\)[ ]?/?[ ]?\d(?:[ \-./]?\d){5,10}" + _CLOSED)
_EXTENSION = re.compile(rb"[ ]?(?:x|ext\.?|extension)[ ]?\d{1,6}(?!\w)", re.I)
_TRUNK = re.compile(_OPEN + rb"\(?0\d{1,5}\)?(?:" + _BETWEEN + rb"|[ ]?/[ ]?){0,2}\d(?:" + _BETWEEN + rb"?\d){5,9}" + _CLOSED)
_ANY = re.compile(rb"(?<![\w.])[(]?\d(?:" + _GAP + rb"\d){5,14}(?!\d)")
_SAYS_PHONE: Final = (  # expressions of words, in UTF-8
    "tele?(?:phone|fon|f)?", "tel(?:e|é)f(?:on[aeou]?|oon)", "telefonszám", "tél(?:éphone)?", "telem(?:óvel)?", "tlf",
    "puh(?:elin)?",
    "cep", "gsm", "phones?", "mobil[ae]?", "mob(?:itel)?", "móvil", "cell(?:phone)?", "celular", "portable", "handy", "rufnummer",
    "fax", "ph",
    "(?:my|your|his|her|our|their|contact)[ ](?:new[ ]|private[ ]|own[ ])?numbers?",
    "(?:meine[ ]nummer|mon[ ]num(?:é)ro|(?:mi|il[ ]mio|meu)[ ]n(?:ú)mero)",
    "hotline", "whatsapp", "sms", "call(?:ing|s)?", "ring", "appelez", "dial(?:ing)?", "reach[ ](?:me|us|him|her|them)", "thoại",
)  # fmt: skip
_ENDING = r"[^\s\d:.,]{0,16}"
_SAYS_PHONE_TOO: Final = (
    "☎", "📞", "📱", "电话", "電話", "手机", "携帯", "전화", "โทร", "טלפון", rf"(?:Τηλ|τηλ|Κινητ|κινητ){_ENDING}",
    rf"(?:тел|моб|сотов){_ENDING}",
    rf"(?<![a-z])(?:tel(?:e|é)f(?:o|ó)n|puhelin|matkapuhelin|(?:mobil|handy|ruf|fax)n|mobilsz|kom(?:ó)rk){_ENDING}",
)  # fmt: skip
"""Without a border between words, which expressions on bytes do not see here; some go on, as in `telefonnummer`."""
_BETWEEN_WORD_AND_NUMBER: Final = (
    r"[\s:.,()#=*'\"\[-]|\uff1a|번호|号码|号|番号|是|为|\b(?:numbers?|num|no|nr|is|at|on|me|us|him|her|them|the|office|line|direct|toll|free"
    r"|support|now|today|back|please|our|my|your|or|home|work|and|via|under|desk|extension|by|sales|unter|au|al|le)\b"
).replace(r"\uff1a", "\uff1a")
_CUE = re.compile(
    rf"(?:\b(?:{'|'.join(_SAYS_PHONE)})\b|{'|'.join(_SAYS_PHONE_TOO)})(?:{_BETWEEN_WORD_AND_NUMBER}){{0,12}}$".encode(), re.I
)
_NO_CUE = re.compile(
    rb"(?:isbn|issn|imei|order|invoice|tracking|serial|part|sku|ref(?:erence)?|ticket|case|account|id|doi|patent|model|ean|upc"
    rb"|batch|lot|row|build|item|timestamp|commit|page|pages|pp|section)\b[\W_]*(?:(?:number|num|no|nr|is|was|of|code)\b[\W_]*){0,3}$",
    re.I,
)
_DATE = re.compile(
    rb"(?:19|20)\d\d([-./ ])\d{1,2}\1\d{1,2}|\d{1,2}([-./])\d{1,2}\2(?:19|20)\d\d|(?:19|20)\d\d[ ]?-[ ]?(?:19|20)\d\d"
)
_VERSION = re.compile(
    rb"\bv\.?[ ]?$|(?:\b(?:ver|versions?|releases?d?|builds?|firmware|kernel|driver"
    rb"|sections?|sec|chapter|clause|rev|revision|update|patch"
    rb"|upgrade[ds]?|sdk|assembly|file|product|oid|article|appendix|table|figure|dependency|package|plugin|bios|api)\b|\xc2\xa7"
    rb"|[\w+]/)[^\d\n]{0,24}$",
    re.I,
)
_ADDRESS_CUE = re.compile(
    rb"(?:\b(?:ips?|ipv4|address(?:es)?|hosts?|servers?|from|ping|client|subnet|gateway|dns|connect(?:ed|ion)?|router|node|login|"
    rb"visitor|peer|proxy|remote|port|network|request|attack|blocked?|banned|ssh)\b|//|@)[^\d\n]{0,24}$",
    re.I,
)
_NAMED = re.compile(rb"\b[A-Z][\w+#-]*[ ]$")  # a product and its version, as in `OpenSSL 1.0.2.11`
_MAESTRO: Final = frozenset((5018, 5020, 5038, 5893, 6304, 6390, 6759, 6761, 6762, 6763))  # which are of 12 digits or more
_ROOM = 40  # bytes before a number that say what it is


def require(where: str, kinds: Collection[str]) -> None:
    """Refuse to look for telephone numbers where libphonenumber is not installed, in the name of a field."""
    if "phone" in kinds and importlib.util.find_spec("phonenumbers") is None:
        raise Refusal(
            where=where,
            found="a wish to find telephone numbers, without phonenumbers",
            allowed="an installation with the extra `text`, or kinds without phone",
            remedy="pip install 'posttrain[text]'",
        )


def numbers(text: bytes, start: int, end: int) -> Iterator[Finding]:
    """What the row of digits at `text[start:end]` holds; findings do not overlap, and come in their order.

    Args:
        text: UTF-8 of a document.
    """
    begin = start
    while begin > 0 and start - begin < 2 and text[begin - 1] in b"+( ":
        begin -= 1
    taken: list[Finding] = []
    for find in (_addresses, _cards, _phones):
        for found in find(text, begin, end):
            if all(found[2] <= other[1] or other[2] <= found[1] for other in taken):
                taken.append(found)
    yield from sorted(taken, key=lambda each: each[1])


def _before(text: bytes, at: int) -> bytes:
    return text[max(0, at - _ROOM) : at]


def _addresses(text: bytes, start: int, end: int) -> Iterator[Finding]:
    for match in _IPV4.finditer(text, start, min(len(text), end + 3)):
        if match.end() <= end and _is_address(match[0].decode(), _before(text, match.start())):
            yield "ip", match.start(), match.end()


def _is_address(written: str, before: bytes) -> bool:
    """Valid, no mask and none of every machine, and no number of a version: those have small parts or say what they are."""
    try:
        address = ipaddress.IPv4Address(written)
    except ValueError:
        return False
    if address.is_loopback or address.is_unspecified or address.is_multicast or written.startswith("255."):
        return False
    if written.endswith(".0.0") and written.startswith(("0.", "1.", "2.", "3.")):
        return False
    version, told = _VERSION.search(before), _ADDRESS_CUE.search(before)
    if version and (not told or told.start() < version.start()):
        return False
    if told:
        return True
    first = int(written.partition(".")[0])
    named = _NAMED.search(before) and first < 30 and first != 10
    return not named and any(len(part) > 1 for part in written.split("."))


def _cards(text: bytes, start: int, end: int) -> Iterator[Finding]:
    for match in _CARD.finditer(text, start, min(len(text), end + 2)):
        digits = re.sub(rb"\D", b"", match[0]).decode()
        if (
            match.end() <= end
            and _network(digits)
            and luhn(digits)
            and (len(digits) > 13 or not _NO_CUE.search(_before(text, match.start())))
        ):
            yield "card", match.start(), match.end()


def luhn(digits: str) -> bool:
    """Whether the last digit checks the others (ISO/IEC 7812-1, annex B)."""
    doubled = [int(each) * 2 for each in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(each - 9 * (each > 9) for each in doubled)) % 10 == 0 and len(set(digits)) > 1


def _network(digits: str) -> bool:
    """Whether a card network gives out numbers that begin so and are so long."""
    two, four, length = int(digits[:2]), int(digits[:4]), len(digits)
    if four in _MAESTRO or two in (50, 56, 57, 58):
        return length >= 12
    if digits[0] == "4":
        return length in (13, 16, 19)
    if 51 <= two <= 55 or 2200 <= four <= 2204 or 2221 <= four <= 2720:
        return length == 16
    if two in (34, 37):
        return length == 15
    if four in (1800, 2131):  # of JCB
        return length == 15
    if two in (36, 38, 39) or 3000 <= four <= 3059:
        return length in (14, 16)
    return length in (16, 17, 18, 19) and (3528 <= four <= 3589 or two in (60, 62, 63, 64, 65, 67))


def _phones(text: bytes, start: int, end: int) -> Iterator[Finding]:
    cued = bool(_CUE.search(_before(text, start)[-_ROOM:]))
    if not cued and b"+" not in text[start : start + 2] and _NO_CUE.search(_before(text, start)):
        return
    for pattern, wanted, needed in _FORMS:
        if pattern is _ANY and not cued:
            return
        if needed not in text[start:end]:
            continue
        found = False
        for match in pattern.finditer(text, start, min(len(text), end + 3)):
            stop = min(match.end(), end)
            written = match[0][: stop - match.start()].decode(errors="replace")
            if not _DATE.match(match[0]) and wanted(written, cued or bool(_CUE.search(_before(text, match.start())))):
                found = True
                yield (
                    "phone",
                    match.start() + _lead(match[0]),
                    extension.end() if (extension := _EXTENSION.match(text, stop)) else stop,
                )
        if found:
            return


def _lead(written: bytes) -> int:
    """Bytes before the number: a blank, or a bracket that is not closed in it."""
    return int(written[:1] == b" " or (written[:1] == b"(" and b")" not in written))


def _abroad(written: str, cued: bool) -> bool:
    """With a country code: valid, or of a possible length; people write numbers that no network has given out."""
    if re.fullmatch(r"\+\d\.\d+", written):  # a number with a sign
        return False
    written = written.replace("(0)", "").removeprefix("(")  # as in +49 (0)30: dialled at home only
    signed, digits = written.startswith("+"), sum(map(str.isdigit, written))
    parts = len(re.findall(r"\d+", written))
    grouped = signed and ((digits >= 9 and parts >= 4) or (digits >= 10 and re.search(r"\d\(\d", written) is not None))
    return grouped or _checks(written if signed else "+" + written[2:], None, possible=(signed and digits >= 10) or cued)


def _north_american(written: str, cued: bool) -> bool:
    digits = "".join(filter(str.isdigit, written))[-10:]
    return (
        cued
        or "(" in written
        or _checks(written, "US", False)
        or (digits[0] in "23456789" and any(each in written for each in "-."))
    )


def _at_home(written: str, cued: bool) -> bool:
    grouped = any(not character.isdigit() for character in written)
    digits = sum(map(str.isdigit, written))
    postal = re.fullmatch(r"\d{5}-\d{4}", written)
    if not 9 <= digits <= 12 + written.startswith("(0") or not (grouped or cued) or postal:
        return False
    surely = grouped and written.startswith(("0800", "(0"))
    return cued or surely or any(_checks(written, region, False) for region in REGIONS)


def _cued(written: str, cued: bool) -> bool:
    digits = "".join(filter(str.isdigit, written))
    return cued and 7 <= len(digits) <= 15 and not digits.endswith("0000")  # calls, and not how many


def _behind_eight(written: str, cued: bool) -> bool:
    """A number of Russia or Kazakhstan behind the digit that is dialled at home."""
    return sum(map(str.isdigit, written)) == 11 and (cued or "(" in written or _checks(written, "RU", False))


def _in_brackets(written: str, cued: bool) -> bool:
    """A code of an area or a country in brackets: behind a 0, before a stroke, or one that makes a number with its country."""
    stroke = ")/" in written and sum(map(str.isdigit, written)) >= 9
    return cued or written.startswith("(0") or stroke or _checks("+" + written, None, False)


_FORMS: Final = (
    (_ABROAD, _abroad, b""),
    (_BEHIND_EIGHT, _behind_eight, b"8"),
    (_NORTH_AMERICA, _north_american, b""),
    (_TRUNK, _at_home, b"0"),
    (_IN_BRACKETS, _in_brackets, b"("),
    (_ANY, _cued, b""),
)
"""What numbers look like, who decides whether one is, and what each has: the last is asked only where a word says so."""


@lru_cache(maxsize=4096)
def _checks(written: str, region: str | None, possible: bool) -> bool:
    """Whether libphonenumber takes it for a number that some network may have given out, or could by its length."""
    import phonenumbers

    try:
        number = phonenumbers.parse(written, region)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(number) or (possible and phonenumbers.is_possible_number(number))
