"""Run as `python -m posttrain.data.containers.extraction NAME`: pages on stdin, their texts on stdout; see `pages.py`."""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections.abc import Callable
from typing import IO

from posttrain.data.containers.pages import LENGTH, LOST, READY, TEXT

MEMORY = 4 << 30  # bytes of address space: a page that wants more fails here, not on the machine
LONGEST_REASON = 200


def _trafilatura() -> Callable[[str], str | None]:
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    return lambda page: trafilatura.extract(page, fast=True, include_comments=False)


def _resiliparse() -> Callable[[str], str | None]:
    from resiliparse.extract.html2text import extract_plain_text

    return lambda page: extract_plain_text(page, main_content=True, alt_texts=False)


EXTRACTORS = {"trafilatura": _trafilatura, "resiliparse": _resiliparse}


def serve(name: str, pages: IO[bytes], texts: IO[bytes]) -> None:
    """Answer each page with its text, or with why there is none, until there are no more."""
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    extract = EXTRACTORS[name]()
    _write(texts, READY)
    while len(head := pages.read(LENGTH.size)) == LENGTH.size:
        charset = pages.read(LENGTH.unpack(head)[0]).decode(errors="replace")
        page = pages.read(LENGTH.unpack(pages.read(LENGTH.size))[0])
        try:
            text = extract(bytes_to_str(page, charset or detect_encoding(page) or "utf-8")) or ""
            answer = TEXT + text.encode("utf-8", "replace")
        except Exception as error:  # parsers meet what nobody thought of
            answer = LOST + f"{type(error).__name__}: {error}"[:LONGEST_REASON].encode("utf-8", "replace")
        _write(texts, answer)


def _write(stream: IO[bytes], answer: bytes) -> None:
    stream.write(LENGTH.pack(len(answer)) + answer)
    stream.flush()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    serve(sys.argv[1], sys.stdin.buffer, answers)
