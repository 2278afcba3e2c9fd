"""Runs in the store: where each lies, and which one a recipe has open, so that an interrupted run is taken up again."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from posttrain.runtime.locks import locked_if_free
from posttrain.runtime.trees import Irregular, inside, read_regular
from schemas.errors import Refusal
from schemas.recipe import Recipe

log = logging.getLogger(__name__)
RUN_ID = re.compile("[A-Za-z0-9][A-Za-z0-9-]{0,63}")


def marked(marker: Path) -> str | None:
    """The run that a marker names; None where there is none, or what lies there is not what `start_run` wrote."""
    try:
        run_id = read_regular(marker, limit=256).decode("ascii")
    except FileNotFoundError:
        return None
    except (OSError, Irregular, UnicodeDecodeError):
        run_id = ""
    if RUN_ID.fullmatch(run_id):
        return run_id
    log.warning("%s names no run, and is left aside: a new run is started", marker)
    return None


def run_folder(root: Path, run_id: str, where: str) -> Path:
    """The folder of a run in a store.

    Raises:
        Refusal: when this is no id of a run, or the folder is a link that leads elsewhere.
    """
    if not RUN_ID.fullmatch(run_id):
        raise Refusal(
            where=where,
            found=f"a run with the id {run_id[:200]!r}",
            allowed="letters, digits and dashes",
            remedy="check the id, or the server",
        )
    return inside(root, "runs", run_id, where=where)


@contextmanager
def claimed(recipe: Recipe, root: Path) -> Iterator[Path]:
    """A marker that is this process's alone inside: the first of the recipe's that no run holds which is still going on.

    Two runs of one recipe at once are two runs, with an id and a report each; one after an interrupted one takes its place.
    """
    (root / "runs").mkdir(parents=True, exist_ok=True)
    for turn in itertools.count():
        marker = marker_of(recipe, root, turn)
        with locked_if_free(marker.with_suffix(".lock")) as ours:
            if ours:
                yield marker
                return


def forget(recipe: Recipe, root: Path, run_id: str) -> None:
    """Leave no marker that names a finished run."""
    first = marker_of(recipe, root)
    for marker in first.parent.glob(f"{first.stem}*{first.suffix}"):
        if marked(marker) == run_id:
            marker.unlink(missing_ok=True)


def marker_of(recipe: Recipe, root: Path, turn: int = 0) -> Path:
    """Names an open parent run of this recipe until it is finished; `turn` counts those that go on at once."""
    digest = hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()[:16]
    return root / "runs" / (f"{digest}-{turn}.open" if turn else f"{digest}.open")
