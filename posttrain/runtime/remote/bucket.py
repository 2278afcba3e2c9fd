"""Objects of an S3-compatible bucket below a prefix, with writes that fail where another was faster.

Address and credentials of the service come from where every client of S3 has them: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, profiles, and the roles of machines and pods.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from posttrain.runtime.progress import current
from posttrain.runtime.trees import DOCUMENT_BYTES
from schemas.errors import Refusal

T = TypeVar("T")
AWAY_SECONDS = 1800.0  # that a service may not answer before a stage ends; what it has built is kept in the local folder
RETRY_SECONDS = 5.0
BATCH = 1000  # names in one call, the protocol's limit
ALLOWED = "s3://BUCKET/PREFIX of a service that this machine may read and write"


class Taken(Exception):
    """An object is not as the writer believed: another was faster."""


@dataclass(frozen=True)
class Object:
    """An object's content as it was read."""

    content: bytes
    etag: str
    """Changes with the content."""
    age: float
    """Seconds since it was written, by the service's own clock."""


class Bucket:
    """The objects below `s3://BUCKET/PREFIX`, by their names without the prefix.

    Args:
        address: of bucket and prefix.
        away_seconds: that calls wait for a service that does not answer.

    Raises:
        Refusal: for an address that is none.
    """

    def __init__(self, address: str, away_seconds: float = AWAY_SECONDS) -> None:
        self.away_seconds = away_seconds
        parts = urlsplit(address)
        if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc or ".." in parts.path.split("/") or parts.query:
            raise _refusal(address, "no address of a bucket", "write s3://BUCKET/PREFIX; credentials come from AWS_*")
        self.name, self.prefix = parts.netloc, parts.path.strip("/")
        self.address = f"s3://{self.name}/{self.prefix}".rstrip("/")

    def require_usable(self, probe: str) -> None:
        """Make sure that this machine may write, and that of two writers of one object one fails; writes `probe`.

        Raises:
            Refusal: when not.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self.delete([probe])
            self._put(probe, b"", {"IfNoneMatch": "*"})
            self._put(probe, b"", {"IfNoneMatch": "*"})
        except Taken:
            return
        except (ClientError, BotoCoreError) as error:
            raise _refusal(self.address, str(error), "check bucket, AWS_ENDPOINT_URL and credentials") from None
        raise _refusal(
            self.address, "a service that ignores If-None-Match, by which two writers see each other",
            "take one that has conditional writes, or mount the bucket's server as a folder",
        )  # fmt: skip

    def read(self, name: str) -> Object | None:
        """A document, or None where there is none; of one that is too long a part, which nobody can read as one."""
        found = self._unless_absent(lambda: self._client.get_object(Bucket=self.name, Key=self._key(name)))
        if found is None:
            return None
        now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
        age = (now - found["LastModified"]).total_seconds()
        return Object(found["Body"].read(DOCUMENT_BYTES + 1), found["ETag"], max(0.0, age))

    def size(self, name: str) -> int | None:
        """Bytes of an object, or None where there is none."""
        found = self._unless_absent(lambda: self._client.head_object(Bucket=self.name, Key=self._key(name)))
        return None if found is None else int(found["ContentLength"])

    def write(self, name: str, content: bytes) -> str:
        """Write an object whatever is there; its etag."""
        return self._put(name, content, {})

    def create(self, name: str, content: bytes) -> str:
        """Write an object that is not there.

        Raises:
            Taken: when it is.
        """
        return self._put(name, content, {"IfNoneMatch": "*"})

    def replace(self, name: str, content: bytes, etag: str) -> str:
        """Write an object in place of the one that was read.

        Raises:
            Taken: when that has changed or is gone.
        """
        return self._put(name, content, {"IfMatch": etag})

    def upload(self, name: str, stream: IO[bytes]) -> None:
        """Write an object of any size, in parts where it is large."""

        def send() -> None:
            stream.seek(0)
            self._client.upload_fileobj(_Unclosed(stream), self.name, self._key(name))

        self._insist(send)

    def download(self, name: str, stream: IO[bytes]) -> bool:
        """Copy an object into a stream; whether there is one."""

        def receive() -> bool:
            stream.seek(0)
            stream.truncate()
            self._client.download_fileobj(self.name, self._key(name), stream)
            return True

        return bool(self._unless_absent(receive))

    def names(self, below: str = "") -> Iterator[tuple[str, int]]:
        """Names and sizes of the objects whose names begin so."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self._key(below))
        start = len(self._key(""))
        for page in pages:
            yield from ((each["Key"][start:], each["Size"]) for each in page.get("Contents", ()))

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are not there are no matter."""
        keys = [{"Key": self._key(name)} for name in names]
        for first in range(0, len(keys), BATCH):
            batch = {"Objects": keys[first : first + BATCH], "Quiet": True}
            self._insist(functools.partial(self._client.delete_objects, Bucket=self.name, Delete=batch))

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _put(self, name: str, content: bytes, condition: dict[str, str]) -> str:
        from botocore.exceptions import ClientError

        try:
            put = functools.partial(self._client.put_object, Bucket=self.name, Key=self._key(name), Body=content, **condition)
            return str((put() if condition else self._insist(put))["ETag"])
        except ClientError as error:
            if _status(error) in (409, 412) or (condition and _status(error) == 404 and _code(error) == "NoSuchKey"):
                raise Taken(name) from error
            raise

    def _unless_absent(self, call: Callable[[], T]) -> T | None:
        from botocore.exceptions import ClientError

        try:
            return self._insist(call)
        except ClientError as error:
            if _status(error) != 404 or _code(error) == "NoSuchBucket":
                raise
            return None

    def _insist(self, call: Callable[[], T]) -> T:
        """Repeat a call that does no harm twice until the service answers."""
        from botocore.exceptions import BotoCoreError, ClientError

        began, told = time.monotonic(), False
        while True:
            try:
                return call()
            except (BotoCoreError, ClientError) as error:
                if not _is_outage(error) or time.monotonic() - began >= self.away_seconds:
                    raise
            if not told:
                current().note(f"{self.address} does not answer; waiting")
                told = True
            time.sleep(RETRY_SECONDS)

    @functools.cached_property
    def _client(self) -> Any:
        """Threads may share it."""
        try:
            import boto3
            from botocore.config import Config
        except ImportError:
            raise _refusal(self.address, "a bucket, and boto3 is not installed", "pip install 'posttrain[s3]'") from None
        retries = {"mode": "standard", "total_max_attempts": 4}
        return boto3.session.Session().client("s3", config=Config(connect_timeout=10, read_timeout=60, retries=retries))


class _Unclosed:
    """A stream that a transfer may not close: it is sent again when the transfer fails."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.read, self.seek, self.tell = stream.read, stream.seek, stream.tell

    def close(self) -> None:
        """Left to who opened it."""


def _is_outage(error: Exception) -> bool:
    """Whether the same call may work later."""
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.exceptions import HTTPClientError

    return isinstance(error, NoConnection | HTTPClientError) or _status(error) >= 500 or _status(error) == 429


def _status(error: Exception) -> int:
    return int(getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _refusal(address: str, found: str, remedy: str) -> Refusal:
    return Refusal(where="--store", found=f"{address}: {found}", allowed=ALLOWED, remedy=remedy)
