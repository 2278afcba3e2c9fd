"""Which prompts and documents no training stage sees: decided by their text alone, so alike in every data set and every run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import polars as pl
import xxhash

DECLARED: Final = {
    **dict.fromkeys(("train", "training", "train_prefs", "train_sft"), "train"),
    **dict.fromkeys(("holdout", "test", "testing", "eval", "evaluation", "validation", "valid", "val", "dev"), "holdout"),
    **dict.fromkeys(("test_prefs", "test_sft", "heldout", "held_out", "held-out"), "holdout"),
}
# NFC leaves every character below U+0300 as it is, and of general punctuation changes two blanks, which folding replaces anyway.
MAY_CHANGE: Final = r"[^\x00-\u02ff\u2000-\u206f]"
# Not `\s+`: that would stop at every single blank, and they are nearly all there is.
ODD_SPACE: Final = r"[\s--\x20]\s*|\x20\s+"


def folded(texts: pl.Series) -> pl.Series:
    """Text after Unicode NFC, lower-casing, and with runs of white space as one blank and none at the ends; null as empty.

    Args:
        texts: strings, shape (rows,).

    Returns:
        Strings, shape (rows,), that are equal where the texts differ in nothing else.
    """
    plain = texts.fill_null("").str.to_lowercase()
    composed = _where(plain, plain.str.len_bytes() > plain.str.len_chars(), _composed)
    spaced = _where(composed, composed.str.contains(ODD_SPACE), lambda some: some.str.replace_all(ODD_SPACE, " "))
    return spaced.str.strip_chars(" ")


def _composed(texts: pl.Series) -> pl.Series:
    return _where(texts, texts.str.contains(MAY_CHANGE), lambda some: some.str.normalize("NFC"))


def _where(texts: pl.Series, rows: pl.Series, change: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """The texts with `change` applied to some rows: finding those that need it is many times as fast as changing all."""
    return texts.scatter(rows.arg_true(), change(texts.filter(rows))) if rows.any() else texts


def holdout_mask(texts: pl.Series, share: float) -> pl.Series:
    """Which texts are held out: those whose 64-bit xxh3 hash, after folding, is below `share` of its range.

    Texts that differ only in case, white space or Unicode composition fall on the same side; so does the same text in another
    data set, process, machine or version. A larger share holds out the same texts and more.

    Args:
        texts: strings, shape (rows,); null counts as empty.
        share: part of all possible hashes, from 0 to 1.

    Returns:
        Booleans, shape (rows,).
    """
    return held_out(folded(texts), share)


def assign(declared: pl.Series, keys: pl.Series, share: float) -> pl.Series:
    """`train` or `holdout` per row: as declared where the name is known, else as `holdout_mask` says.

    Args:
        declared: names of splits or null, shape (rows,); any case.
        keys: prompts that are folded already, shape (rows,).
        share: part to hold out of the rows that declare nothing.
    """
    known = named(declared)
    hashed = held_out(keys, share).replace_strict({True: "holdout", False: "train"}, return_dtype=pl.String)
    return known.zip_with(known.is_not_null(), hashed).rename("split")


def named(declared: pl.Series) -> pl.Series:
    """`train` or `holdout` for the names of splits, shape (rows,); null for others and for null."""
    return declared.str.strip_chars().str.to_lowercase().replace_strict(DECLARED, default=None, return_dtype=pl.String)


def in_part(row: dict[str, Any], name: str) -> dict[str, Any]:
    """The row of a part of that name, such as `train` of a `DatasetDict`: held out where the part says so, or the row itself."""
    said = row.get("split")
    return row if isinstance(said, str) and _holds_out(said) else row | {"split": name}


def _holds_out(name: str) -> bool:
    return DECLARED.get(name.strip().lower()) == "holdout"


class DeclaredSplits:
    """The split that each row of a file declares: as the file's name and its column `split` say, held out where one of them does.

    Args:
        side: `train` or `holdout`, as the name of the file or the recipe says, or None.
    """

    def __init__(self, side: str | None) -> None:
        self._side, self._unnamed, self._example = side, 0, ""

    def apply(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row, whose `split` is text or null. Numbers are no names: which split they mean stands somewhere else."""
        said = row.get("split")
        if said is None and self._side is None:
            return row
        if said is not None and not isinstance(said, str):
            self._unnamed, self._example = self._unnamed + 1, self._example or repr(said)
            said = None
        held = said is not None and _holds_out(said)
        return row | {"split": said if held else self._side or said}

    def note(self, name: str) -> str | None:
        """What a person should know of a file's splits."""
        if not self._unnamed:
            return None
        return f"{name}: `split` is no name of a split in {self._unnamed:,} rows (such as {self._example}): it is not read there"


def held_out(keys: pl.Series, share: float) -> pl.Series:
    """`holdout_mask` of texts that are folded already, as strings or as their UTF-8."""
    return pl.Series("holdout", held_out_bytes(keys.cast(pl.Binary).to_list(), share), dtype=pl.Boolean)


def held_out_bytes(keys: Iterable[bytes | memoryview], share: float) -> list[bool]:
    """The same of UTF-8."""
    limit = int(share * 2**64)
    return [xxhash.xxh3_64_intdigest(key) < limit for key in keys]
