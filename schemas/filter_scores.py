"""What a recipe may ask of a document beside its metrics: language, personal data, quality, evaluation sets, and the mixture."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.base import Frozen
from schemas.fields import AboveZero, Number, Positive, Share
from schemas.sources import Sources

Code = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]
"""ISO 639, as the model lid.176 writes it."""
Kind = Literal["email", "ip", "phone", "card", "iban", "secret"]


class LanguageRules(Frozen):
    """Which languages are kept; needs the extra `text`. Told by fastText's lid.176 from 200 characters, or more where unsure."""

    keep: tuple[Code, ...] | None = None
    """Codes (ISO 639) of the languages that are kept; null keeps all."""
    min_score: Share = 0.65
    """A document is kept where the model is at least so sure of its language."""
    scores: dict[Code, Share] = Field(default_factory=dict)
    """Other limits than `min_score` for some languages."""


class PersonalData(Frozen):
    """Personal data and secrets. Each becomes a placeholder as `[EMAIL]` in kept and rejected documents alike."""

    kinds: tuple[Kind, ...] = ("email", "ip", "phone", "card", "iban", "secret")
    """What is looked for; `phone` needs the extra `text`."""
    action: Literal["mask", "drop"] = "mask"
    """Keep documents with placeholders, or reject those that had any."""


class Quality(Frozen):
    """A classifier of good documents: trained on given ones here, or any that transformers loads."""

    good: Sources | None = None
    """Documents as they should be: a path, glob or URL, or a list of these, with a column `text`."""
    bad: Sources | None = None
    """Documents as they should not be."""
    model: str | None = None
    """Instead of both: a folder that `AutoModelForSequenceClassification` loads."""
    label: str | int | None = None
    """Whose probability a model's score is; null takes the last label. A model of one label gives its logit."""
    keep: Annotated[float, Number] = 0.5
    """The smallest score that is kept. The score of a trained one is the probability that a document is a good one."""
    seed: int = 0
    """Of the order in which the documents are learned from."""

    @model_validator(mode="after")
    def _one_way(self) -> Quality:
        if (self.good is None) != (self.bad is None) or (self.good is None) == (self.model is None):
            raise PydanticCustomError("quality", "either good and bad documents, or a model")
        return self


class Perplexity(Frozen):
    """How surprising a document is to a causal language model."""

    model: str
    """A folder that `AutoModelForCausalLM` and `AutoTokenizer` load."""
    max: AboveZero | None = None
    """The largest perplexity that is kept; null only measures."""
    min: AboveZero | None = None
    """The smallest one that is kept."""
    tokens: Positive = 512
    """How many tokens of a document are read."""


class Decontaminate(Frozen):
    """Documents that repeat evaluation sets."""

    against: Sources
    """Files of evaluation sets: every text of 8 words or more in any column of a row is an example."""
    remove: bool = True
    """Reject a document with a run of 13 words of an example, or a whole example of 8 to 12; otherwise only report."""


class DirtyWords(Frozen):
    """Words that a document may not have many of (Raffel et al. 2020, section 2.2; Llama 3, section 3.1.1)."""

    words: str
    """A file with a word or phrase on each line."""
    max: Share = 0.0
    """The largest share of a document's words that is kept."""


class Tail(Frozen):
    """The end of pretraining, with another mixture: annealing on chosen data (Llama 3, arXiv 2407.21783, section 3.1.3)."""

    share: Annotated[float, Field(gt=0, lt=1), Number]
    """Of all tokens."""
    shares: dict[str, Share]
    """As those of the mixture."""


class Mixture(Frozen):
    """Shares of tokens; documents beyond them are rejected, chosen by a hash of their text and so alike in every run."""

    by: Literal["language", "source"]
    """What groups documents: the code of their language, or the file that they are from."""
    shares: dict[str, Share]
    """Share of the tokens of each group, 1 in all; a group is a code or a pattern of file names, `*` all that no other takes."""
    tail: Tail | None = None
    """Documents that pretraining reads last."""
    tokenizer: str | None = None
    """A file tokenizer.json or the folder of one, by which tokens are counted; null counts four bytes of UTF-8 as one."""

    @model_validator(mode="after")
    def _whole(self) -> Mixture:
        for name, shares in {"shares": self.shares, "tail.shares": self.tail.shares if self.tail else self.shares}.items():
            if abs(sum(shares.values()) - 1) > 1e-6:
                raise PydanticCustomError(
                    "mixture", "{name} add up to {sum}, not to 1", {"name": name, "sum": sum(shares.values())}
                )
        return self


class Divergence(Frozen):
    """Documents whose words are distributed unlike those of the corpus (Llama 3, section 3.1.1)."""

    percentile: Annotated[float, Field(gt=0, le=100), Number] = 99.0
    """Documents with a larger Kullback-Leibler divergence than this percentile of all are rejected."""
