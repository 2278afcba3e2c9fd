"""What a filter is given besides the corpus: good and bad documents, evaluation sets, models; found, and checked."""

from __future__ import annotations

from pathlib import Path

from posttrain.data.sources import SourceFile, resolve, source_digest
from posttrain.filters import neural
from posttrain.filters.datatrove import words
from posttrain.models.policy import folder_digest
from posttrain.text import language, personal_numbers
from schemas.errors import Refusal, closest
from schemas.filtering import Filtering
from schemas.results import Origin
from schemas.sources import Sources, addresses


def sources(filtering: Filtering) -> dict[str, Sources]:
    """Data sets that a filter reads, by the field that names them."""
    quality, sets = filtering.quality, filtering.decontaminate
    found = {
        "filtering.quality.good": quality.good if quality else None,
        "filtering.quality.bad": quality.bad if quality else None,
        "filtering.decontaminate.against": sets.against if sets else None,
    }
    return {where: given for where, given in found.items() if given is not None}


def folders(filtering: Filtering) -> dict[str, Path]:
    """Files and folders that it reads besides, likewise."""
    asked = filtering.quality, filtering.perplexity, filtering.dirty_words, filtering.mixture
    quality, perplexity, dirty, mixture = asked
    found = {
        "filtering.quality.model": quality.model if quality else None,
        "filtering.perplexity.model": perplexity.model if perplexity else None,
        "filtering.dirty_words.words": dirty.words if dirty else None,
        "filtering.mixture.tokenizer": mixture.tokenizer if mixture else None,
    }
    return {where: Path(given).expanduser() for where, given in found.items() if given is not None}


def origins(filtering: Filtering, cache: Path) -> tuple[Origin, ...]:
    """Everything that is given, by content."""
    data = [
        Origin(name=where, digest=source_digest(resolve(given, where, cache)), location=", ".join(addresses(given)))
        for where, given in sources(filtering).items()
    ]
    return (
        *data,
        *(Origin(name=where, digest=_digest(path, where), location=str(path)) for where, path in folders(filtering).items()),
    )


def _digest(path: Path, where: str) -> str:
    if path.is_dir():
        return folder_digest(path)
    if not path.is_file():
        raise Refusal(where=where, found=f"{path}, which is not there", allowed="a file or folder", remedy="correct the path")
    return source_digest([SourceFile(path.name, str(path))])


def check(filtering: Filtering) -> None:
    """Refuse what could not be done before a document is read.

    Raises:
        Refusal: when an extra is missing, a language is unknown, or a file or model is not there.
    """
    if filtering.variant == "datatrove":
        words.require()
    if filtering.language:
        language.require("filtering.language")
        asked = [*(filtering.language.keep or ()), *filtering.language.scores]
        _check_codes("filtering.language.keep", asked)
    if filtering.personal:
        personal_numbers.require("filtering.personal", filtering.personal.kinds)
    if filtering.mixture and filtering.mixture.by == "language":
        if not filtering.language:
            remedy = "add filtering.language: {}"
            raise Refusal(where="filtering.mixture.by", found="language", allowed="with filtering.language", remedy=remedy)
        _check_codes("filtering.mixture.shares", [code for code in filtering.mixture.shares if code != "*"])
    for where, path in folders(filtering).items():
        if where.endswith(".model"):
            neural.check(str(path), where)
        else:
            _digest(path, where)


def _check_codes(where: str, codes: list[str]) -> None:
    known = language.languages()
    for code in codes:
        if code not in known:
            near = closest(code, sorted(known))
            remedy = f"write {near}" if near else "take a code of lid.176, as en, de, zh"
            raise Refusal(where=where, found=repr(code), allowed="an ISO 639 code that the model knows", remedy=remedy)
