"""The words of the sample reviews: sentiment lexicons, item names, kinds of things and sentence templates.

No word outside the four sentiment tables may be in a lexicon, so that the ground-truth reward counts only what was meant;
tests/posttrain/data/test_samples.py checks that.
"""

from __future__ import annotations

from typing import NamedTuple


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


class Polarity(NamedTuple):
    """The words of one sentiment. The two sides have equally many entries, of similar lengths, so that length says nothing."""

    adjectives: tuple[str, ...]
    verbs: tuple[str, ...]
    nouns: tuple[str, ...]

    @property
    def lexicon(self) -> frozenset[str]:
        """Every word of this sentiment."""
        return frozenset(self.adjectives + self.verbs + self.nouns)


POSITIVE = Polarity(
    _words(
        "excellent wonderful charming superb pleasant lovely brilliant delightful impressive splendid fantastic great good "
        "beautiful perfect terrific graceful polished elegant reliable thoughtful inviting generous memorable clever "
        "refreshing satisfying enjoyable outstanding fine"
    ),
    _words("loved enjoyed liked admired praised adored"),
    _words("pleasure delight joy treat triumph"),
)
NEGATIVE = Polarity(
    _words(
        "dreadful terrible annoying horrid tiresome shoddy miserable unpleasant frustrating careless pathetic awful bad "
        "disgusting faulty horrible clumsy sloppy mediocre tedious thoughtless repulsive shabby forgettable dull "
        "irritating disappointing unbearable lacklustre poor"
    ),
    _words("hated loathed disliked regretted cursed despised"),
    _words("nuisance letdown pain mess failure"),
)

FIRST_NAMES = _words(
    "Harbor Silent Winter Copper Northern Crimson Paper Velvet Hidden Distant Amber Marble Midnight Autumn Silver Wooden "
    "Eastern Hollow Ivory Scarlet Stone Summer Thunder Twilight Western Willow Canyon Cedar Cobalt Coral Desert Ember "
    "Falcon Garden Glass Granite Indigo Island Jasmine Juniper Lakeside Lemon Linen Lunar Maple Meadow Mountain Ocean Olive "
    "Orchid Pepper Pine Prairie Quartz Raven River Saffron Sandstone Valley Walnut"
)
SECOND_NAMES = _words(
    "Lantern Bridge Compass Door Anchor Tower Mirror Feather Clock Crown Engine Forest Gate Horizon Journey Kettle Ladder "
    "Letter Library Market Mill Needle Orchard Palace Parade Piano Pocket Promise Quarry Railway Road Sail Shadow Signal "
    "Sparrow Spring Station Stranger Street Summit Table Temple Theatre Thread Ticket Tiger Train Umbrella Village Voyage "
    "Wagon Wall Watch Wheel Whale Whistle Window Wolf Yard Zephyr"
)


class Kind(NamedTuple):
    """A kind of thing: its plural, what people did with it, and what a review talks about (singular)."""

    plural: str
    verb: str
    aspects: tuple[str, ...]


KINDS: dict[str, Kind] = {
    "film": Kind("films", "watched", _words("plot acting music dialogue ending camera humor pacing costume script")),
    "restaurant": Kind("restaurants", "ate at", _words("soup service dessert menu wine bread kitchen terrace waiter salad")),
    "phone": Kind("phones", "bought", _words("screen battery camera speaker keyboard charger design software signal case")),
    "hotel": Kind("hotels", "stayed at", _words("room breakfast pool lobby bed view staff shower balcony garden")),
    "book": Kind("books", "read", _words("plot prose ending hero chapter cover dialogue style opening translation")),
    "album": Kind("albums", "listened to", _words("melody rhythm singer guitar drummer chorus lyric sound opening production")),
    "museum": Kind("museums", "visited", _words("tour gallery guide building exhibit entrance collection lighting shop map")),
    "laptop": Kind("laptops", "used", _words("screen keyboard battery speaker fan hinge software design charger camera")),
    "game": Kind("games", "played", _words("story music level map combat puzzle ending tutorial hero design")),
    "cafe": Kind("cafes", "sat in", _words("coffee cake tea service music terrace counter sandwich menu atmosphere")),
}

ADVERBS = _words("really quite truly rather simply very")
VERB_ADVERBS = _words("really truly simply honestly certainly")
PEOPLE = (
    "my sister", "my brother", "my mother", "my father", "my neighbor", "my cousin", "a friend", "a colleague", "my partner",
    "my uncle", "my teacher", "an old friend",
)  # fmt: skip
TIMES = (
    "last week", "last spring", "last summer", "in March", "in October", "on Sunday", "on Friday night", "after work",
    "two days ago", "this morning", "over the weekend", "during the holidays", "on a rainy day", "a month ago",
)  # fmt: skip
PLACES = ("the river", "the station", "the market", "the old town", "the park", "the bridge", "the school", "the harbor")
NUMBERS = ("ten", "twelve", "fifteen", "twenty", "thirty", "forty", "fifty", "sixty")

# The first sentence of every review, in corpus and answers alike, so that pretraining helps fine-tuning.
OPENINGS = (
    "The {item} is {a_kind} that {person} told me about {time}.",
    "I {verb_used} the {item} with {person} {time}, and here is what I think.",
    "We {verb_used} the {item}, {a_kind} near {place}, {time}.",
    "The {item} was the first {kind} that I {verb_used} {time}.",
    "I have heard much of the {item}, {a_kind} that {person} {verb_used} {time}.",
    "The {item}, {a_kind} known to {person}, is what I {verb_used} {time}.",
)
POLAR = (
    "The {aspect} was {adverb} {adjective} and the {aspect2} felt {adjective2} to me.",
    "I {verb_adverb} {verb} the {aspect} because it was so {adjective}.",
    "Then {person} said that the {aspect} was {adjective} from start to end.",
    "What I remember most is the {adjective} {aspect} that we had {time}.",
    "To be honest, the {aspect} turned out to be {adverb} {adjective}.",
    "Of all the {kinds} that I {verb_used}, this one has the most {adjective} {aspect}.",
    "We {verb} the {aspect}, and {person} called it {adverb} {adjective}.",
    "It was {a_noun} to find such {a_adjective} {aspect} {time}.",
    "Even the {aspect} was {adjective}, which made the {aspect2} seem {adjective2} too.",
    "For {person} the {aspect} was {a_noun}, since it was {adverb} {adjective}.",
    "Nobody in my family expected the {aspect} to be so {adjective} {time}.",
    "In short, the {aspect} is {adjective} and {person} {verb} it.",
)
NEUTRAL = (
    "It took about {number} minutes to get there from {place}.",
    "I paid {number} dollars for it {time}, which is the usual price.",
    "You can find the same kind of {aspect} near {place}.",
    "Then {person} asked me about the {aspect} and the {aspect2} {time}.",
    "The {aspect} is much the same as it was {number} years ago.",
    "We talked with {person} about the {aspect} for {number} minutes.",
)
PROMPTS = (
    "Write a review of the {item}, {a_kind}.",
    "Please write a short review of the {item}, {a_kind}.",
    "What do you think of the {item}, {a_kind}?",
    "Tell me about the {item}, {a_kind}.",
    "Review the {kind} called the {item}.",
)
