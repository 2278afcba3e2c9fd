"""Planted noise of the sample corpus: each function spoils or replaces a document in one labelled way."""

from __future__ import annotations

from random import Random

from posttrain.data.reviews import Item, pick

COOKIES = (
    "We use cookies on this site.", "Accept all cookies", "Manage cookie settings", "Read the privacy policy",
    "Reject optional cookies", "All rights reserved.", "Sign up for our newsletter", "Terms of use apply to this page.",
)  # fmt: skip
MENU = ("Home page", "About us", "Contact form", "Opening hours", "Latest reviews", "Gift cards", "Log in", "Site map",
        "Press room", "Job offers", "Help desk", "Photo gallery")  # fmt: skip
TAGS = ("deal", "sale", "review", "top", "now", "shop", "trend", "news", "love", "weekend", "follow", "share")
TEASERS = (
    "You will not believe what happened to the {name}", "Read more about the {kind} and the people of the town",
    "The story that everyone has to read with care", "And then we found out the truth about the {kind}",
    "Click here to see the rest of the pictures",
)  # fmt: skip
SHORT = ("See you there.", "Read more about the {name}.", "No comments yet.", "The {name}, {kind}.", "Page not found.")
PII = (
    "For questions, write to {user}@example.com and I will answer.",
    "You can reach me at +1 202-555-01{number:02d} after work.",
    "Call (303) 555-01{number:02d} or mail {user}@example.org to talk about it.",
)
USERS = ("anna.kline", "j.porter", "tom_reed", "maria.silva", "d.okafor", "lena.vogt")
# Sentences without one English stop word; every text of six or more of them has at least twenty words.
FOREIGN = (
    ("{name} liegt nahe am alten Bahnhof.", "Das Essen schmeckte uns wirklich sehr gut.", "Leider war unser Zimmer viel zu laut.",
     "Meine Schwester fand alles etwas langweilig.", "Wir kommen im Sommer sicher noch einmal.",
     "Der Preis war für uns alle völlig angemessen.", "Am Ende blieb nur eine schöne Erinnerung.",
     "Niemand konnte uns eine klare Auskunft geben."),
    ("{name} se trouve près de la vieille gare.", "Nous avons beaucoup aimé la musique du soir.",
     "Le service était malheureusement trop lent pour nous.", "Ma sœur a trouvé cette histoire assez ennuyeuse.",
     "Nous reviendrons certainement pendant les vacances.", "Le prix nous a paru tout à fait correct.",
     "Personne ne pouvait répondre à nos questions.", "Il reste pourtant un très beau souvenir."),
    ("{name} está muy cerca de la estación vieja.", "Nos gustó mucho la comida de aquella noche.",
     "El servicio fue por desgracia demasiado lento.", "Mi hermana encontró todo bastante aburrido.",
     "Volveremos seguramente durante las vacaciones.", "El precio nos pareció justo para todos.",
     "Nadie pudo responder nuestras preguntas ese día.", "Queda sin embargo un recuerdo muy bonito."),
)  # fmt: skip


def boilerplate(rng: Random, item: Item) -> str:
    """A cookie notice, a bullet menu, hash-tag spam, or teasers that end in an ellipsis."""
    return pick(rng, (_cookies, _menu, _hashes, _teasers))(rng, item)


def _cookies(rng: Random, _: Item) -> str:
    start = int(rng.random() * len(COOKIES))
    return "\n".join((COOKIES + COOKIES)[start : start + 5] * 3)


def _menu(rng: Random, _: Item) -> str:
    bullet = pick(rng, ("•", "-", "*"))
    return "\n".join(f"{bullet} {entry} {number}" for number, entry in enumerate(MENU[: 8 + int(rng.random() * 5)], 1))


def _hashes(rng: Random, item: Item) -> str:
    return f"The {item.name} is the {item.kind} to have. " + " ".join(f"#{pick(rng, TAGS)} and" for _ in range(12)) + " more."


def _teasers(rng: Random, item: Item) -> str:
    dots, start = pick(rng, ("...", "…")), int(rng.random() * len(TEASERS))
    return "\n".join(teaser.format(name=item.name, kind=item.kind) + dots for teaser in TEASERS[start:] + TEASERS[:start])


def other_language(rng: Random, item: Item) -> str:
    """Six to eight sentences of German, French or Spanish."""
    sentences, start = pick(rng, FOREIGN), int(rng.random() * 8)
    turned = (sentences[start:] + sentences[:start])[: 6 + int(rng.random() * 3)]
    # The number makes texts differ, so that the language alone decides about them.
    return " ".join(turned).format(name=item.name) + f" {item.name} {int(rng.random() * 1e6)}."


def too_short(rng: Random, item: Item) -> str:
    """A handful of words."""
    return pick(rng, SHORT).format(name=item.name, kind=item.kind)


def duplicate(rng: Random, text: str) -> str:
    """The text again: as it is, in other case, or with other white space."""
    return pick(rng, (text, text.upper(), text.lower(), _respaced(text)))


def _respaced(text: str) -> str:
    return "  " + text.replace(". ", ".\n") + "\n"


def near_duplicate(rng: Random, text: str) -> str:
    """The text with one sentence more, or one word changed; still good English."""
    if rng.random() < 0.5:
        return text + " That is all I have to say about it."
    return text.replace(" the ", " this ", 1)


def pii(rng: Random, text: str) -> str:
    """The text with an e-mail address or a phone number in it (reserved for examples); otherwise good."""
    return f"{text} " + pick(rng, PII).format(user=pick(rng, USERS), number=int(rng.random() * 100))
