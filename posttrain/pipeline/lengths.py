"""How long the sequences of a recipe's stages are, from the first rows of its data: before anything is validated or trained."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import fsspec
import numpy as np
import polars as pl
import pyarrow
from transformers import PreTrainedTokenizerBase

from posttrain.checkpoints.load import load_tokenizer
from posttrain.data.encode import accepted, encode_conversations, encode_prompts
from posttrain.data.encode_documents import encode_documents
from posttrain.data.feedback import unpaired
from posttrain.data.kinds import KINDS, Kind
from posttrain.data.packing import Example
from posttrain.data.readers import BadRow, Row, read_rows
from posttrain.data.sources import SourceFile, kind_of
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from posttrain.filters.documents import COLUMNS, has_text
from posttrain.models.positions import UNLIMITED
from posttrain.pipeline.chain import Chain
from posttrain.scoring.scorer import longest_of
from schemas.errors import Refusal
from schemas.model import ScratchModel
from schemas.reward import RewardTraining
from schemas.training import DPO, SFT, Pretrain

T = TypeVar("T")


@dataclass(frozen=True)
class Answering:
    """How rows of `data.prompts` are read, which no section trains on: each prompt with an answer of the longest length."""

    max_length: int
    """Of a prompt with its answer, in tokens."""
    max_new_tokens: int
    batch_size: int


Section = Pretrain | SFT | DPO | RewardTraining
Spec = Section | Answering
ROWS = 512  # of each data set: the first of every file, since what follows would have to be read to be chosen from
COMPRESSION = {".gz": 4, ".zst": 4, ".bz2": 5, ".xz": 5}  # bytes of text per byte of file, about
COLUMNAR = {".parquet": 3}


@dataclass(frozen=True)
class FirstRows:
    """The first rows of a recipe's data in normal form, and how large the files are."""

    documents: list[str]
    tables: dict[str, pl.DataFrame]
    """By data set that the recipe has, of those with a contract."""
    sizes: dict[str, int]
    """Bytes of text in the files, by data set; estimated where they are compressed."""
    numbers: dict[str, int]
    """Lines in the files, by data set, where they are plain text on this machine."""
    chain: Chain
    _encodings: dict[tuple[Any, ...], Sequence[Example]] = field(default_factory=dict, repr=False)
    """By all that they depend on: several stages and both forecasts ask for the same ones."""

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's, or one trained on these rows where the run will train one."""
        model = self.chain.model
        if not isinstance(model, ScratchModel):
            return load_tokenizer(self.chain.source)
        return prepare_tokenizer(train_tokenizer(self.documents, model.vocab_size))

    def number(self, table: str, split: Literal["train", "holdout"], counts: Mapping[str, float]) -> float:
        """Rows of a split: as the contract counted them, else the share of the file's lines that it has by the recipe."""
        held_out = self.chain.recipe.data.holdout
        share = held_out if split == "holdout" else 1 - held_out
        return counts.get(f"{table}_{split}", share * self.numbers.get(table, 0))

    def examples(self, spec: Spec, encoder_decoder: bool) -> tuple[Sequence[Example], str]:
        """Examples of a stage, and in words where their lengths come from."""
        found = self._encoded(spec, encoder_decoder)
        if not found:
            return longest(spec), f"no row could be read: rows of up to {_limit(spec)} tokens"
        return found, _said(found)

    def held_out(self, spec: SFT | DPO | Answering, limit: int, encoder_decoder: bool) -> tuple[Sequence[Example], str]:
        """The same as evaluation reads them: up to `limit` tokens, whatever training allows."""
        if isinstance(spec, Answering):
            whole = replace(spec, max_length=limit)
            return self.examples(whole if self._encoded(whole, encoder_decoder) else spec, encoder_decoder)
        found = self._encoded(spec, encoder_decoder)
        if not self._all_short(spec, found, min(limit, spec.max_length)):
            found = self._encoded(spec.model_copy(update={"max_length": limit, "overlong": "quarantine"}), encoder_decoder)
        if not found:
            return self.examples(spec, encoder_decoder)
        return found, _said(found) + (f", of {limit:,} that are read" if limit < UNLIMITED else "")

    def _all_short(self, spec: SFT | DPO, found: Sequence[Example], limit: int) -> bool:
        """Whether these are all rows and none came near the limit, so that no limit above would change one."""
        return 0 < len(found) == self._table(spec).height and longest_of(found) < limit

    def _encoded(self, spec: Spec, encoder_decoder: bool) -> Sequence[Example]:
        kind = type(spec) if isinstance(spec, Pretrain | SFT | Answering) else DPO
        key = (kind, _is_unpaired(spec), _limit(spec), getattr(spec, "overlong", None), encoder_decoder)
        if key not in self._encodings:
            self._encodings[key] = self._encode(spec, encoder_decoder)
        return self._encodings[key]

    def _encode(self, spec: Spec, encoder_decoder: bool) -> Sequence[Example]:
        if isinstance(spec, Pretrain):
            return encode_documents(self.documents, self.tokenizer, spec.context, encoder_decoder)
        if isinstance(spec, Answering):
            return self._answered(spec, encoder_decoder)
        field = f"data.{self._table_of(spec)}"
        try:
            turns = spec.train_on if isinstance(spec, SFT) else "last"
            return encode_conversations(
                self._table(spec), self.tokenizer, spec.max_length, field, spec.overlong, encoder_decoder, turns
            ).examples
        except Refusal:  # for a share of rows, which may be another one in all rows
            return ()

    def _answered(self, spec: Answering, encoder_decoder: bool) -> Sequence[Example]:
        rows = accepted(self.tokenizer, self.tables["prompts"])["prompt"].to_list()
        answer = (np.zeros(spec.max_new_tokens, np.int32),)
        prompts = encode_prompts(rows, self.tokenizer, encoder_decoder, max(1, spec.max_length - spec.max_new_tokens))
        return [Example(prompt, answer) for prompt in prompts]

    def _table_of(self, spec: Section) -> str:
        """The data set that a section's rows are of."""
        if isinstance(spec, Answering):
            return "prompts"
        if isinstance(spec, SFT):
            return "instructions"
        return "feedback" if _is_unpaired(spec) and "feedback" in self.tables else "preferences"

    def _table(self, spec: Section) -> pl.DataFrame:
        """Its rows, of which KTO takes pairs apart."""
        table = self.tables[self._table_of(spec)]
        return unpaired(table) if _is_unpaired(spec) else table


def _is_unpaired(spec: object) -> bool:
    return isinstance(spec, DPO) and spec.unpaired


def _said(found: Sequence[Example]) -> str:
    mean, most = (round(f([example.length for example in found])) for f in (np.mean, np.max))
    return f"as in the first {len(found)} rows: {mean} tokens on average, at most {most}"


def longest(spec: Spec) -> Sequence[Example]:
    """Rows as long as a stage allows, half of them prompt, as many as a step has."""
    prompt = 1 if isinstance(spec, Pretrain) else _limit(spec) // 2
    parts = [np.zeros(n, np.int32) for n in (prompt, _limit(spec) - prompt)]
    example = Example(parts[0], (parts[1],) * (2 if isinstance(spec, DPO | RewardTraining) and not _is_unpaired(spec) else 1))
    return [example] * (max(1, spec.batch_tokens // spec.context) if isinstance(spec, Pretrain) else spec.batch_size)


def _limit(spec: Spec) -> int:
    return spec.context if isinstance(spec, Pretrain) else spec.max_length


@functools.lru_cache(maxsize=1)
def first_rows(chain: Chain) -> FirstRows:
    """Read the first rows of every data set of a recipe; a generated sample is kept in the store's cache."""
    recipe = chain.recipe
    read = {"corpus": "filter" in recipe.stages, **dict.fromkeys(KINDS, True)}
    files = {name: chain.files(name) for name, used in read.items() if used and getattr(recipe.data, name) is not None}
    sizes = {name: sum(map(_size, found)) for name, found in files.items()}
    tables = {name: _table(name, files[name]) for name in KINDS if name in files}
    numbers = {name: sum(map(_lines, found)) for name, found in files.items()}
    return FirstRows(_documents(files.get("corpus", [])), tables, sizes, numbers, chain)


def _few(rows_of: Sequence[Iterable[T]]) -> Iterator[T]:
    """As many of the first rows of each file as make `ROWS` of all."""
    each = -(-ROWS // max(1, len(rows_of)))
    return itertools.chain.from_iterable(itertools.islice(rows, each) for rows in rows_of)


def _documents(files: Sequence[SourceFile]) -> list[str]:
    columns = _few([read_rows(file, _ignore, known=COLUMNS, fits=has_text) for file in files])
    return [row["text"] for _, row in columns if isinstance(row.get("text"), str)]


def _table(name: str, files: Sequence[SourceFile]) -> pl.DataFrame:
    kind = KINDS[name]
    few = list(_few([kind.normalise(_rows(file, kind), file.name, _ignore, file.reading) for file in files]))
    return pl.DataFrame(pyarrow.Table.from_pylist(few, pl.DataFrame(schema=kind.columns).to_arrow().schema))


def _rows(file: SourceFile, kind: Kind) -> Iterator[Row]:
    return read_rows(file, _ignore, known=kind.known(file.reading), fits=kind.fits(file.reading))


def _size(file: SourceFile) -> int:
    filesystem, path = fsspec.url_to_fs(file.url)
    suffix, compressed = kind_of(file.url)
    return int(filesystem.size(path) or 0) * COMPRESSION.get(compressed, 1) * COLUMNAR.get(suffix, 1)


def _lines(file: SourceFile) -> int:
    """0 where they would have to be fetched or decompressed."""
    path = Path(file.url)
    if kind_of(file.url) not in ((".jsonl", ""), (".ndjson", "")) or not path.is_file():
        return 0
    with path.open("rb") as stream:
        return sum(1 for _ in stream)


def _ignore(bad: BadRow) -> None:
    """The contract reports bad rows."""
