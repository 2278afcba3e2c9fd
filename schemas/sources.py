"""Where rows come from: what one entry of `data.corpus`, `data.instructions` and `data.preferences` may say."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from schemas.base import Frozen, refused
from schemas.fields import AboveZero
from schemas.reading import Reading

HUB_SCHEME: Final = "hub://"
REPOSITORY: Final = r"^[\w.-]+(/[\w.-]+)?$"
Address = Annotated[str, Field(min_length=1)]
Split = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class DataSource(Reading):
    """One source of rows: files (`path`) or a data set of the Hugging Face hub (`name`)."""

    path: Address | None = None
    """A file, folder, glob or fsspec URL, `hub://NAME[@REVISION][:CONFIG]`, or `sample://corpus|instructions|preferences`."""
    name: Annotated[str, Field(pattern=REPOSITORY)] | None = None
    """Data set of the hub, such as HuggingFaceH4/ultrafeedback_binarized. Needs the extra `hub`."""
    config: Address | None = None
    """Configuration (subset) of a data set of the hub; null is its default."""
    revision: Address | None = None
    """Branch, tag or commit of a data set of the hub, `main` unless said; a run pins it to a commit."""
    split: Split | tuple[Split, ...] | None = None
    """Splits to read, as the hub or the names of files have them; null is all. Of one file: what its rows are, whatever its name
    says. Rows of test, validation and the like are never trained on."""
    weight: AboveZero | None = None
    """Share of this source in the rows (or tokens: `data.weights`) that are kept, relative to the weights of the others; all or
    none of them have one."""

    @property
    def reading(self) -> Reading:
        """What it says about columns."""
        return Reading(**{name: getattr(self, name) for name in Reading.model_fields})

    @property
    def splits(self) -> tuple[str, ...]:
        """`split` as a tuple; empty for all."""
        return (self.split,) if isinstance(self.split, str) else self.split or ()

    @property
    def address(self) -> str:
        """In one word, as a recipe may write it."""
        if self.path is not None:
            return self.path
        revision = f"@{self.revision}" if self.revision else ""
        return f"{HUB_SCHEME}{self.name}{revision}" + (f":{self.config}" if self.config else "")

    @model_validator(mode="after")
    def _one_place(self) -> DataSource:
        if (self.path is None) == (self.name is None):
            raise refused(
                where="path of a data source",
                found="neither path nor name" if self.path is None else "both path and name",
                allowed="path (files) or name (a data set of the hub)",
                remedy="give one of them",
            )
        if self.path is not None and (self.config or self.revision):
            raise refused(
                where=f"{'config' if self.config else 'revision'} of a data source",
                found=f"{self.config or self.revision!r} beside path",
                allowed="with name",
                remedy=f"remove it, or give the data set as name: {self.path}",
            )
        return self


class Weights(Frozen):
    """What the weights of sources are shares of."""

    by: Literal["rows", "tokens"] = "rows"
    """`tokens` counts those of all texts of a row, so that a source of long answers has fewer rows."""
    tokenizer: Address | None = None
    """A file tokenizer.json or the folder of one, by which tokens are counted; null counts four bytes of UTF-8 as one."""

    @model_validator(mode="after")
    def _read(self) -> Weights:
        if self.tokenizer is not None and self.by == "rows":
            raise refused(
                where="data.weights.tokenizer",
                found=f"{self.tokenizer!r} beside by: rows",
                allowed="with by: tokens",
                remedy="set data.weights.by: tokens, or remove it",
            )
        return self


def _form(value: Any) -> str:
    """Which of its forms a source is in, so that a mistake is told for this one only."""
    if isinstance(value, list | tuple):
        return "list"
    return "DataSource" if isinstance(value, dict | DataSource) else "address"


Source = Annotated[
    Annotated[Address, Tag("address")] | Annotated[DataSource, Tag("DataSource")],
    Discriminator(_form),
]
Sources = Annotated[
    Annotated[Address, Tag("address")]
    | Annotated[DataSource, Tag("DataSource")]
    | Annotated[tuple[Source, ...], Field(min_length=1), Tag("list")],
    Discriminator(_form),
]
"""An address, a source, or a list of both."""


def listed(sources: Sources | None) -> tuple[DataSource, ...]:
    """The sources of one data set; an address alone is a source with nothing else said."""
    if sources is None:
        return ()
    if isinstance(sources, tuple | list):
        return tuple(one for each in sources for one in listed(each))
    return (_of_address(sources) if isinstance(sources, str) else _unfolded(sources),)


def addresses(sources: Sources | None) -> tuple[str, ...]:
    """What each source is called in a recipe."""
    return tuple(source.address for source in listed(sources))


def _unfolded(source: DataSource) -> DataSource:
    """With `path: hub://…` written out."""
    if source.path is None or not source.path.startswith(HUB_SCHEME):
        return source
    return _of_address(source.path).model_copy(
        update={name: getattr(source, name) for name in (*Reading.model_fields, "split", "weight")}
    )


def _of_address(address: str) -> DataSource:
    if not address.startswith(HUB_SCHEME):
        return DataSource(path=address)
    place, _, config = address.removeprefix(HUB_SCHEME).partition(":")
    name, _, revision = place.partition("@")
    return DataSource(name=name, revision=revision or None, config=config or None)
