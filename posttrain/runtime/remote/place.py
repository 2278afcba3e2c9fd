"""Which bucket a local folder of a store is a copy of, and where on this machine that folder is.

The folder says so itself, in `remote.json`: whoever is given the folder, a stage's process say, finds the bucket. It is believed
only where this machine puts the copy of that bucket: a stranger's folder could name a bucket of his, and would be sent results.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from pathlib import Path

from posttrain.runtime.remote.bucket import AWAY_SECONDS, Bucket
from posttrain.runtime.trees import Irregular, read_regular
from posttrain.runtime.writing import write_atomically
from schemas.errors import Refusal

SCRATCH = "POSTTRAIN_SCRATCH"
"""Folder for local copies of buckets; needs room for what a stage reads and writes, checkpoints included."""
FILE, PROBE = "remote.json", "probe"


def local_folder(address: str) -> Path:
    """The folder of this machine that stands for a bucket; the first time it is made, the bucket is tried.

    Raises:
        Refusal: for an address that is none, or a bucket that cannot be used.
    """
    bucket = bucket_at(Bucket(address).address)
    folder = _folder_of(bucket)
    if bucket_of(folder) is None:
        bucket_at(bucket.address, away_seconds=0).require_usable(PROBE)  # a wrong address is not waited for
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(folder / FILE, json.dumps({"address": bucket.address}))
    return folder


def bucket_of(root: Path) -> Bucket | None:
    """The bucket that a folder stands for, or None for a store that is the folder itself.

    Raises:
        Refusal: when the folder names a bucket, and is not where its copy lies on this machine.
    """
    try:
        bucket = bucket_at(str(json.loads(read_regular(root / FILE, 4096))["address"]))
    except (OSError, Irregular, ValueError, KeyError, TypeError):
        return None
    if root.resolve() != _folder_of(bucket).resolve():
        raise Refusal(
            where="--store",
            found=f"{root}, whose {FILE} names the bucket {bucket.address}",
            allowed=f"the address of a bucket, or a folder without {FILE}",
            remedy=f"give {bucket.address} if that is yours, or remove the file",
        )
    return bucket


@functools.cache
def bucket_at(address: str, away_seconds: float = AWAY_SECONDS) -> Bucket:
    """The same for each caller of a process: its client keeps connections."""
    return Bucket(address, away_seconds)


def _folder_of(bucket: Bucket) -> Path:
    digest = hashlib.sha256(bucket.address.encode()).hexdigest()[:12]
    name = re.sub("[^A-Za-z0-9]+", "-", bucket.address.removeprefix("s3://"))[-60:].strip("-")
    return _scratch() / f"{name}-{digest}"


def _scratch() -> Path:
    given = os.environ.get(SCRATCH)
    return Path(given).expanduser() if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "posttrain"
