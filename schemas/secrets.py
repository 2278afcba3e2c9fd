"""Credentials in addresses: they are needed to open a source, and must not reach logs, results or MLflow."""

from __future__ import annotations

import re

# user:password before the host, and query parameters that sign or authorise a request
_SECRET = re.compile(
    r"(?<=://)[^/@\s\"']+(?=@)|(?<=[?&])[^=&\s\"']*(?:sig|token|key|secret|credential)[^=&\s\"']*=[^&\s\"']+", re.I
)


def without_credentials(text: str) -> str:
    """The text with every user, password and signature inside an address replaced by `***`."""
    return _SECRET.sub("***", text)
