"""How many tokens texts have, for shares of a mixture: under a tokenizer, or by their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from schemas.errors import Refusal

BYTES_OF_A_TOKEN: Final = 4


def by_bytes(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tokens of texts of so many bytes of UTF-8, shape (texts,): four bytes are one, and what is left over is one too."""
    return -(-sizes // BYTES_OF_A_TOKEN)


def counted(texts: Sequence[str], tokenizer: str) -> NDArray[np.int64]:
    """Tokens of each text under a tokenizer, shape (texts,), without special ones.

    Args:
        texts: as they stand, without a chat template.
        tokenizer: a file tokenizer.json, or the folder of one.
    """
    return np.array([len(each.ids) for each in _tokenizer(tokenizer).encode_batch(texts, add_special_tokens=False)], np.int64)


def tokenizer_file(tokenizer: str, where: str) -> Path:
    """The file that is meant.

    Raises:
        Refusal: when there is none; `where` is the recipe field.
    """
    path = _file(tokenizer)
    if not path.is_file():
        raise Refusal(
            where=where,
            found=f"{path}, which is not there",
            allowed="a file tokenizer.json, or the folder of one",
            remedy="correct the path",
        )
    return path


def _file(tokenizer: str) -> Path:
    path = Path(tokenizer).expanduser()
    return path / "tokenizer.json" if path.is_dir() else path


@lru_cache(maxsize=2)
def _tokenizer(tokenizer: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(_file(tokenizer)))
