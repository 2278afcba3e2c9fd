"""One run per GPU of a host: a file lock for each, so that what several workers or people start takes turns.

Prefect's own limits do not reach that far: a work pool counts its runs, not the cards of the hosts that its workers sit on.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from posttrain.runtime.locks import locked_if_free
from posttrain.runtime.progress import current
from schemas.errors import Refusal
from schemas.recipe import Compute

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_SECONDS = 2.0
EVERYONE = 0o666  # the mode of a lock that users share
LIST_SECONDS = 60


@contextmanager
def own_gpus(compute: Compute, folder: Path | None = None) -> Iterator[tuple[str, ...]]:
    """Hold as many GPUs of this host as a recipe trains on, and show only these to CUDA inside; none where it has none.

    Must be entered before CUDA is used in this process. Waits, and says so, while others hold them.

    Args:
        folder: where the locks lie, the same for all of a host; the system's folder for temporary files has one.

    Raises:
        Refusal: when the host has fewer.
    """
    cards = () if compute.device == "cpu" else visible_gpus()
    if not cards:
        yield ()
        return
    if compute.num_processes > len(cards):
        raise Refusal(
            where="compute.num_processes",
            found=f"{compute.num_processes} on a host with {len(cards)} GPUs",
            allowed=f"at most {len(cards)}",
            remedy="lower it, or take a pool of larger hosts",
        )
    with ExitStack() as stack:
        held = _hold(stack, cards, compute.num_processes, folder or _common_folder())
        before = os.environ.get(VISIBLE)
        os.environ[VISIBLE] = ",".join(held)
        try:
            yield held
        finally:
            if before is None:
                os.environ.pop(VISIBLE, None)
            else:
                os.environ[VISIBLE] = before


def _hold(stack: ExitStack, cards: tuple[str, ...], count: int, folder: Path) -> tuple[str, ...]:
    """The first `count` cards that are free at the same time; a part of them is not kept, for which two could wait for ever."""
    told = False
    while True:
        with ExitStack() as attempt:
            free = (card for card in cards if attempt.enter_context(locked_if_free(folder / f"gpu-{card}.lock", EVERYONE)))
            held = tuple(itertools.islice(free, count))
            if len(held) == count:
                stack.push(attempt.pop_all())
                return held
        if not told:
            current().note(f"waiting for {count} of the {len(cards)} GPUs of this host, which other runs hold")
            told = True
        time.sleep(POLL_SECONDS)


def visible_gpus() -> tuple[str, ...]:
    """What this process may use: those of CUDA_VISIBLE_DEVICES where it is set, else all that the driver lists.

    By UUID where the driver says it: by their numbers, two processes could mean one card by two names.
    """
    listed, given = _listed_gpus(), os.environ.get(VISIBLE)
    if given is None:
        return listed
    names = filter(None, map(str.strip, given.split(",")))
    return tuple(listed[int(name)] if name.isdigit() and int(name) < len(listed) else name for name in names)


def _listed_gpus() -> tuple[str, ...]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, "--query-gpu=uuid", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=LIST_SECONDS, check=False)
    return tuple(filter(None, map(str.strip, listed.stdout.splitlines()))) if listed.returncode == 0 else ()


def _common_folder() -> Path:
    """A folder that every user of the host may write into."""
    folder = Path(tempfile.gettempdir()) / "posttrain-gpus"
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o777)
    return folder
