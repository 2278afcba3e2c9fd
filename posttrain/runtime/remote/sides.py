"""What a store does in its bucket, where it has one: nothing where the local folder is the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from posttrain.runtime.remote import uploads
from posttrain.runtime.remote.lease import leased
from posttrain.runtime.remote.place import bucket_of
from posttrain.runtime.remote.results import Results
from schemas.results import StageResult


class Side(Protocol):
    """The other side of a local folder; `folder` is that of a result in it."""

    address: str | None
    """Of the bucket."""

    def pull(self, folder: Path) -> bool:
        """Copy the result here; whether it is there."""

    def share(self, folder: Path, result: StageResult) -> bool:
        """Make a finished result that of all; False where another one is, and lies here now."""

    @contextmanager
    def building(self, folder: Path) -> Iterator[None]:
        """Inside, nobody else builds this result."""

    @contextmanager
    def attempt(self, partial: Path) -> Iterator[None]:
        """Inside, a stage is built in `partial`, which can be taken up elsewhere; it is where an earlier attempt got to."""

    def take_up(self, partial: Path) -> None:
        """Have `partial` hold the furthest checkpoint."""

    def finish(self, partial: Path) -> None:
        """Forget the checkpoints."""

    def keep(self, name: str, path: Path) -> None:
        """Keep a file of the store for people who look there."""


class Nowhere:
    """No other side."""

    address: str | None = None

    def pull(self, folder: Path) -> bool:
        """Nothing is there."""
        return False

    def share(self, folder: Path, result: StageResult) -> bool:
        """It is shared by being in the folder."""
        return True

    @contextmanager
    def building(self, folder: Path) -> Iterator[None]:
        """The lock of the folder does it."""
        yield

    @contextmanager
    def attempt(self, partial: Path) -> Iterator[None]:
        """Checkpoints lie in the folder."""
        yield

    def take_up(self, partial: Path) -> None:
        """Likewise."""

    def finish(self, partial: Path) -> None:
        """They go with the folder."""

    def keep(self, name: str, path: Path) -> None:
        """It lies there."""


class InBucket:
    """A bucket."""

    def __init__(self, results: Results) -> None:
        self.results, self.bucket = results, results.bucket
        self.address: str | None = results.bucket.address

    def pull(self, folder: Path) -> bool:
        """See `Results.pull`."""
        return self.results.pull(folder)

    def share(self, folder: Path, result: StageResult) -> bool:
        """See `Results.share`."""
        return self.results.share(folder, result)

    @contextmanager
    def building(self, folder: Path) -> Iterator[None]:
        """Under a lease."""
        stage, key = folder.parent.name, folder.name
        with leased(self.bucket, f"{stage}/{key}.lease", stage):
            yield

    @contextmanager
    def attempt(self, partial: Path) -> Iterator[None]:
        """With a copy of each checkpoint in the bucket."""
        with uploads.uploading(self.bucket, partial):
            yield

    def take_up(self, partial: Path) -> None:
        """From the bucket, where that has got further."""
        uploads.take_up(self.bucket, partial)

    def finish(self, partial: Path) -> None:
        """In the bucket, too."""
        uploads.drop(self.bucket, partial)

    def keep(self, name: str, path: Path) -> None:
        """Under the name that it has in the folder."""
        with path.open("rb") as stream:
            self.bucket.upload(name, stream)


def side_of(root: Path) -> Side:
    """The other side of a store's folder."""
    bucket = bucket_of(root)
    return InBucket(Results(bucket)) if bucket else Nowhere()
