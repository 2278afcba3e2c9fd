"""Documents with planted personal data and with decoys, from three generators that share no wording and no decoys.

The expressions were tuned on `TUNED`. `UNSEEN` then found 92% at a precision of 97%; its faults were mended as kinds,
and `HELD`
was written: 98.6% at a precision of 100% when it was first measured, after which one fault was mended.

In a template `#` stands for a digit, `§` for one from 2 to 9, `~` for a small letter, `^` for a capital, `*` for a letter or
digit, `¤` for a hexadecimal digit, `|` for one of two alternatives.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits
from typing import NamedTuple

Document = tuple[str, list[tuple[str, str]]]
"""A text, and the (kind, value) pairs that are planted in it."""
ALPHABETS = {
    "#": digits,
    "§": "23456789",
    "~": ascii_lowercase,
    "^": ascii_uppercase,
    "*": ascii_letters + digits,
    "¤": digits + "abcdef",
}


def fill(rng: random.Random, template: str) -> str:
    chosen = rng.choice(template.split("|"))
    return "".join(rng.choice(ALPHABETS[each]) if each in ALPHABETS else each for each in chosen)


Make = str | Callable[[random.Random], str]


def luhn(
    start: str, length: int, sizes: tuple[int, ...] = (), between: str = "", wrong: int = 0
) -> Callable[[random.Random], str]:
    """A card number, in groups; with a wrong check digit where one is asked for."""

    def make(rng: random.Random) -> str:
        body = start + fill(rng, "#" * (length - len(start) - 1))
        total = sum(sum(divmod(int(d) * (2 if at % 2 == 0 else 1), 10)) for at, d in enumerate(reversed(body)))
        return grouped(body + str((10 - total % 10 + wrong) % 10), sizes, between)

    return make


def iban(country: str, template: str, sizes: tuple[int, ...] = (), between: str = "") -> Make:
    """An account whose check digits are right."""

    def make(rng: random.Random) -> str:
        body = fill(rng, template)
        letters = "".join(str(int(each, 36)) for each in body + country + "00")
        return grouped(f"{country}{98 - int(letters) % 97:02d}{body}", sizes, between)

    return make


def grouped(number: str, sizes: tuple[int, ...], between: str) -> str:
    at, parts = 0, []
    for size in sizes:
        parts.append(number[at : at + size])
        at += size
    return between.join([*parts, number[at:]] if at < len(number) else parts)


class Generator(NamedTuple):
    planted: dict[str, list[Make]]
    decoys: list[Make]
    frames: list[str]
    filler: str
    seed: int

    def documents(self, count: int) -> Iterator[Document]:
        """Documents of six sentences, half of which have something planted, half a decoy."""
        rng = random.Random(self.seed)
        words = self.filler.split()
        for _ in range(count):
            sentences, truth = [], []
            for _ in range(6):
                rest = " ".join(rng.choices(words, k=rng.randint(5, 12)))
                kind = rng.choice(list(self.planted)) if rng.random() < 0.5 else None
                make = rng.choice(self.planted[kind] if kind else self.decoys)
                value = fill(rng, make) if isinstance(make, str) else make(rng)
                truth += [(kind, value)] if kind else []
                sentences.append(f"{rest}. {rng.choice(self.frames).format(value)}")
            yield "\n".join(sentences), truth


FOURS = (4, 4, 4)
PEM = "-----BEGIN {0} KEY-----\n" + "*" * 64 + "\n" + "*" * 30 + "==\n-----END {0} KEY-----"

TUNED = Generator(
    planted={
        "email": ["ann##@~~~~~~~.com|bo.li#@~~~~.co.uk|f.ng+news@~~~~~.io", "CARLA_M@Example.ORG|EVE##@Example.ORG"],
        "ip": ["11§.1§#.1##.§#", "2001:db8:a¤¤¤::1¤¤"],
        "phone": ["(§1#) §##-####", "+44 20 7### ####", "212-§##-####|415-§##-####|305-§##-####"],
        "card": [luhn("4", 16, FOURS, " "), luhn("52", 16), luhn("37", 15)],
        "iban": [iban("DE", "#" * 18), iban("GB", "NWBK" + "#" * 14, (4,) * 5, " ")],
        "secret": [
            "AKIA" + "^" * 16, "ghp_" + "*" * 36, "sk-" + "~" * 10 + "7" + "*" * 37,
            "eyJhbGciOiJIUzI1NiJ9.eyJ" + "*" * 40 + "." + "*" * 43,
        ],
    },
    decoys=[
        "version 1#.2#.#.###", "released on 20§#-12-2#", luhn("4", 16, wrong=3), "ISBN 978-0-###-#####-#",
        "the handle @~~~~~~~~",
        "at 1#:3#:4#", "$§##,###,###.00", "std::~~~~~~", "icon@2x.png", "git@github.com:~~~~~/~~~~~~~.git", "sk-~~~~~-~~~~~~",
        "listens on 127.0.0.#",
    ],
    frames=["Please write to {} before noon.", "It says {} on the page.", "Notes: {}; more follows.", "We saw ({}) there."],
    filler="the cat sat on a mat while rain fell over small towns and nobody said much about it",
    seed=1,
)  # fmt: skip

UNSEEN = Generator(
    planted={
        "email": [
            "j.smith.##@mail.~~~~~.de|m-o'neil.##@mail.~~~~~.fr|kuroda_y.##@mail.~~~~~.edu", "~~~~~~~~~~@~~~-##.museum",
            "~~~~~~ [at] ~~~~~~ [dot] net", "~~~~~~%~~~~@münchen-~~~.de", "sales2024.##@~~~~~.app|x.##@~~~~~.app",
        ],
        "ip": [
            "10.2#.1##.§#|192.168.1##.§#", "6§.#.§#.1##", "fe80::" + ":".join(["¤¤¤¤"] * 4), ":".join(["§¤¤¤"] * 8),
            "::ffff:19.1##.1##.1#",
        ],
        "phone": [
            "+1 646 §## ####|+1 312 §## ####", "+49 (0)30 §### ####", "01 §# ## ## ##|04 §# ## ## ##", "0171 §######",
            "303.§##.####|617.§##.####", "1-800-§##-####", "+919#########", "+33 6 ## ## ## ##|+33 7 ## ## ## ##",
        ],
        "card": [
            luhn("53", 16, FOURS, "-"), luhn("34", 15, (4, 6), " "), luhn("6011", 16), luhn("36", 14),
            luhn("3530", 16, FOURS, "\u00a0"), luhn("2221", 16),
        ],
        "iban": [
            iban("FR", "#" * 10 + "^" * 11 + "##"), iban("NL", "ABNA" + "#" * 10, (4,) * 4, " "), iban("NO", "#" * 11),
            iban("CH", "#" * 17, (4,) * 5, "\u00a0"),
        ],
        "secret": [
            "ASIA" + "^" * 16, "github_pat_" + "*" * 22 + "_" + "*" * 59, "ghs_" + "*" * 36, "sk-ant-api03-" + "*" * 80 + "AA",
            "sk-proj-" + "*" * 47 + "4", PEM.format("EC PRIVATE"), "xoxb-" + "#" * 12 + "-" + "*" * 24, "AIza" + "*" * 35,
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJ" + "*" * 90 + "." + "*" * 86,
        ],
    },
    decoys=[
        "Chrome/9#.0.4###.1## Safari", "firmware upgraded to #.2#.3#.1##", "section #.#.#.#", "§§#.###.###.###",
        "netmask 255.255.240.0", "from 1#/11/19## to 2#.11.20##", "seasons 19##-20##", "a total of # ### ### ### francs",
        luhn("4", 18), luhn("4", 16, wrong=5), "card ending ####", luhn("35", 15), "GB## NWBK ####", "DE00" + "#" * 18,
        "SSN-like ###-##-###", "@~~~~~~ and @~~~~~~.eth", "npm install ~~~~~~@#.#.#", "scp file user@localhost:/tmp/~~~~",
        "3." + "#" * 14, "sha256 " + "¤" * 64, "¤¤¤¤¤¤¤¤-¤¤¤¤-4¤¤¤-¤¤¤¤-¤¤¤¤¤¤¤¤¤¤¤¤", "00:1B:¤¤:¤¤:3A:B7",
        "class sk-fading-circle-one|class sk-folding-cube-two", PEM.format("SOMEBODY'S").replace("KEY", "CERTIFICATE"),
        "ratio 1:§:§ or #::ghi", "lat §#.######, §#.######", "unix time 17########", "price list 10 20 30 40 50 60 7#",
        "task-###### and PR §####",
    ],
    frames=[
        "Für Rückfragen: {}", "«{}» — that is what the printout had", "{}", "> quoted {}\n> and a line more",
        "Subject: re {} (fwd)",
        "日本語の文章{}、そして", "the value was {}, apparently.", "Kontakt={}\n",
    ],
    filler="Die Straße war leer, und zwei Boote lagen am Ufer; später kam Wind auf: niemand fuhr hinaus (auch heute nicht)",
    seed=2,
)  # fmt: skip

HELD = Generator(
    planted={
        "email": [
            "~~~~~+~~~~@~~~~.~~~.jp|~~~~+~~@~~~~.com.br|~~~~+~@~~~~~.info", "^.^^^^^^@^^^^^.COM", "~~~~~~(at)~~~~~~.eu",
            "######@qq.com",
            "no-reply_###@~~~~~~.xn--p1ai",
        ],
        "ip": [
            "93.1##.2§.1##|185.1##.1##.1##|203.1##.§#.##|8.1##.1##.1##", "100.7#.#.#", "2a0#:§¤¤¤:0:§¤::#",
            "2600:1f18:§¤¤¤:§¤¤¤:§¤¤¤:§¤¤:ab:1",
        ],
        "phone": [
            "+1 (555) ###-####", "§1#-555-####", "+86 138 #### ####", "+7 (495) §##-##-##", "(03) 9### ####", "+34 91§ ### ###",
            "0044 20 7### ####", "+55 11 9####-####", "06 ## ## ## ##", "+1408§######|+1415§######",
        ],
        "card": [luhn("4", 16), luhn("4", 16, FOURS, "-"), luhn("62", 16, FOURS, " "), luhn("25", 16), luhn("6445", 16)],
        "iban": [
            iban("ES", "#" * 20), iban("BE", "#" * 12, FOURS, " "), iban("PL", "#" * 24), iban("IT", "X" + "#" * 22,
            (4,) * 6, " "),
            iban("SE", "#" * 20),
        ],
        "secret": [
            "gho_" + "*" * 36, "glpat-" + "*" * 20, "hf_" + "*" * 34, "sk_live_" + "*" * 24, "sk-" + "¤" * 31 + "7",
            "AKIA" + "^" * 16,
            PEM.format("OPENSSH PRIVATE"), "eyJraWQiOiJhIiwiYWxnIjoiRVMyNTYifQ.eyJzdWIiOi" + "*" * 30 + "." + "*" * 64,
        ],
    },
    decoys=[
        "v1#.2#.2#.#", "OpenSSL 1.#.#.1#|OpenSSL 3.#.#.2#", "(version: 1#.§#.§#.§#)", "driver release 3#.§#.§#.1##",
        "doi:10.§§§§/####.####", "arXiv 2410.#####", "1,###,###,### people", "+#.#########", "pp. 1###-2###", "ZIP #####-####",
        "ISBN 978##########", "order no. ###-#######-#######", "20241#1#T1#3#", "tracking 1Z###AA##########",
        "row 1 2 3 4 5 6 7 8 9 10 1# 12", "score 3-2 2-1 4-4 1-0 #-#", "@~~~~~ mentioned @~~~~~~", "~~~~~@~~~~~~",
        "@~~~~~.setter",
        "~~~~~~@^#.#.0".replace("^", ""), "Foo::abc::~~~~()", "1#:3#:4#.######", luhn("9", 16), "FR## ####", "AKIA^^^^^^",
        "eyJ" + "~" * 12, "ghp_~~~~~~", PEM.format("PUBLIC"), "binds 0.0.0.0 or ::1 on port §§§§", "1#/2#/19## 11.2#.19##",
        "ISO 8601:19##-12 and RFC ####", "id=##########",
    ],
    frames=[
        "<td>{}</td>", '{{"v": "{}", "w": 1}}', "— {} —", "Réf. : {} .", "[{}]", "see: {}\tthen", "value={};", "“{}”", 
        "{}, {{and}} so",
    ],
    filler="le vent se lève 12 fois par an; personne (ou presque) n'en parle, 3 % des gens l'ont vu, №5 et après",
    seed=3,
)  # fmt: skip
