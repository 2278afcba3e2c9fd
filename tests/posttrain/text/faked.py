"""Documents with personal data and decoys by another hand: values by Faker in 22 locales, keys by their published forms.

Written after the expressions, by somebody who did not tune them on it: at the first measurement (seed 6) 98.0% were found, at a
precision of 99.9%; of telephone numbers 91.0%. Two such sets before it, of other locales and frames, gave 89.9% and 94.8%, at
99.5% and 99.7%; their faults were mended as kinds. Left out is what is none by its standard: an IBAN of a country without one,
a multicast address, a card of no network.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import re
from collections.abc import Callable, Iterator
from string import ascii_letters, ascii_uppercase, digits
from typing import Any

from faker import Faker

CUES = {
    "bg_BG": "телефон: {}", "sl_SI": "telefonska: {}", "lt_LT": "tel. nr. {}", "lv_LV": "tālrunis {}", "et_EE": "telefon {}",
    "he_IL": "טלפון: {}", "zu_ZA": "phone no {}", "es_AR": "Cel.: {}", "es_CL": "fono {}", "es_CO": "celular {}",
    "fr_BE": "GSM : {}", "fr_CH": "téléphone {}", "it_CH": "cellulare {}", "nl_BE": "telefoonnummer {}",
    "ru_RU": "звоните по телефону {}", "vi_VN": "Điện thoại: {}", "id_ID": "HP: {}", "th_TH": "โทร. {}",
    "en_US": "or phone us: {}", "de_DE": "Mobil {}", "fr_FR": "appelez le {}", "en_GB": "ring me on {}",
}  # fmt: skip
IBANS = {"bg_BG", "fr_CH", "nl_BE", "it_CH", "de_DE", "fr_FR", "en_GB", "et_EE"}
FRAMES = [
    "it is {} now", "¿{}?", "[1] {} [2]", "P.S. {}", "From: {}\nTo: nobody", "| {} |", "<p>{}</p>", "'{}'",
    "with {} as given, we went on", "\uff0c{}\uff0c", "{}!", "a={} b=c",
]  # fmt: skip
PLAIN_TO_ALL = re.compile(r"\+|00|\(|0\d+[ /.-]\d+[ .-]\d")  # other numbers stand behind a word for a telephone
ALNUM = ascii_letters + digits
Make = Callable[[], Any]


def secrets(fake: Faker, rng: random.Random) -> list[Make]:
    def some(count: int, letters: str = ALNUM) -> str:
        return "".join(rng.choice(letters) for _ in range(count))

    def token() -> str:
        parts = (
            {"alg": "HS256", "typ": "JWT"},
            {"sub": fake.uuid4(), "name": fake.name(), "iat": rng.randrange(10**9, 2 * 10**9)},
        )
        said = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
        seal = base64.urlsafe_b64encode(hmac.new(b"key", said, hashlib.sha256).digest()).rstrip(b"=")
        return (said + b"." + seal).decode()

    def pem() -> str:
        body = base64.b64encode(rng.randbytes(rng.choice([121, 300, 610]))).decode()
        kind = rng.choice(["RSA ", "", "EC ", "OPENSSH ", "ENCRYPTED "]) + "PRIVATE KEY"
        lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
        return f"-----BEGIN {kind}-----\n{lines}\n-----END {kind}-----"

    return [
        lambda: "AKIA" + some(16, ascii_uppercase + "234567"), lambda: "ghp_" + some(36), lambda: "gho_" + some(36),
        lambda: f"github_pat_{some(22)}_{some(59)}", lambda: "glpat-" + some(20), token, pem,
        lambda: f"sk-proj-{some(40)}T3BlbkFJ{some(40)}", lambda: "sk_live_" + some(24),
        lambda: f"xoxb-{some(12, digits)}-{some(13, digits)}-{some(24)}", lambda: "AIza" + some(35), lambda: "hf_" + some(34),
        lambda: "npm_" + some(36), lambda: f"SG.{some(22)}.{some(43)}",
    ]  # fmt: skip


def planted(fake: Faker, rng: random.Random) -> dict[str, list[Make]]:
    return {
        "email": [fake.email, fake.company_email, fake.ascii_free_email, fake.safe_email, fake.ascii_company_email],
        "ip": [fake.ipv4_public, fake.ipv4_private, fake.ipv6], "phone": [fake.phone_number], "card": [fake.credit_card_number],
        "iban": [fake.iban], "secret": secrets(fake, rng),
    }  # fmt: skip


def decoys(fake: Faker, rng: random.Random) -> list[Make]:
    below = rng.randint
    return [
        fake.date, fake.time, fake.iso8601, fake.isbn13, fake.isbn10, fake.ean13, fake.ean8, fake.license_plate, fake.user_agent,
        fake.mac_address, fake.uuid4, fake.sha256, fake.md5, fake.sha1, fake.postcode, fake.street_address, fake.port_number,
        fake.file_path, fake.url, fake.domain_name, fake.hostname, fake.bban, fake.credit_card_expire, fake.swift,
        fake.credit_card_security_code, fake.currency_code, lambda: "@" + fake.user_name(),
        lambda: f"{fake.latitude()}, {fake.longitude()}", lambda: fake.random_number(digits=below(5, 14)),
        lambda: f"{below(1, 9)}.{below(0, 40)}.{below(0, 20)}", lambda: f"{below(1, 900):,}.{below(0, 99):02d}",
        lambda: f"{fake.date(pattern='%d.%m.%Y')} - {fake.date(pattern='%d.%m.%Y')}",
        lambda: f"EUR {below(10**6, 10**9):,}".replace(",", "."),
        lambda: f"{below(1, 999)} {below(0, 999):03d} {below(0, 999):03d}",
        lambda: f"chr{below(1, 22)}:{below(10**6, 10**8)}-{below(10**6, 10**8)}", lambda: f"T-{below(10**5, 10**7)}",
        lambda: f"{below(2, 9)}:{below(10, 59)}:{below(10, 59)}.{below(100, 999)}", lambda: f"image@{below(2, 3)}x.png",
        lambda: f"{fake.word()}::{fake.word()}<{fake.word()}>", lambda: f"#{fake.hex_color()[1:]}",
        lambda: f"RFC {below(100, 9999)} section {below(1, 9)}.{below(1, 9)}.{below(1, 9)}.{below(1, 9)}",
    ]  # fmt: skip


def is_one(kind: str, value: str, locale: str) -> bool:
    """Whether a standard says so; Faker makes some that are not."""
    if kind == "card":
        return not value.startswith(("35", "9")) or 3528 <= int(value[:4]) <= 3589
    return locale in IBANS if kind == "iban" else not (kind == "ip" and value.startswith("ff"))


def documents(seed: int, count: int) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Twelve lines each; half of every second line are planted, the others decoys."""
    rng, fakes = random.Random(seed), {}
    for at, locale in enumerate(CUES):
        fakes[locale] = Faker(locale)
        fakes[locale].seed_instance(seed * 100 + at)
    for _ in range(count):
        locale = rng.choice(list(CUES))
        fake, lines, truth = fakes[locale], [], []
        makes, others = planted(fake, rng), decoys(fake, rng)
        for _ in range(6):
            lines.append(fake.sentence(nb_words=9))
            if rng.random() < 0.5:
                lines.append(rng.choice(FRAMES).format(rng.choice(others)()))
                continue
            kind, value = draw(makes, rng, locale)
            cued = kind == "phone" and (rng.random() < 0.5 or not PLAIN_TO_ALL.match(value))
            lines.append((CUES[locale] if cued else rng.choice(FRAMES)).format(value))
            truth.append((kind, value))
        yield "\n".join(lines), truth


def draw(makes: dict[str, list[Make]], rng: random.Random, locale: str) -> tuple[str, str]:
    while True:
        kind = rng.choice(list(makes))
        value = str(rng.choice(makes[kind])())
        if is_one(kind, value, locale):
            return kind, value
