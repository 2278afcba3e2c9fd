"""What a recipe may make this machine run, as its environment says: a recipe is code, and may come from somebody else.

    POSTTRAIN_ALLOWED_FUNCTIONS   modules, packages and `module:function`s that a recipe may name, between commas; empty: none
    POSTTRAIN_WORKER              1 on a machine that runs the recipes of others; functions that nothing allows are refused then
    POSTTRAIN_ALLOW_REMOTE_CODE   1 where such a machine may run the code of a model's repository, or of a benchmark's folder

On the command line nothing is set, and whoever runs a recipe answers for it.
"""

from __future__ import annotations

import os

from schemas.errors import Refusal

FUNCTIONS, WORKER, REMOTE_CODE = "POSTTRAIN_ALLOWED_FUNCTIONS", "POSTTRAIN_WORKER", "POSTTRAIN_ALLOW_REMOTE_CODE"
OWN_FUNCTIONS = "posttrain.data.samples:sentiment"  # harmless, and the judge of the examples


def is_worker() -> bool:
    """Whether this machine runs the recipes of others."""
    return os.environ.get(WORKER, "") not in ("", "0")


def refuse_function(name: str, field: str) -> None:
    """Refuse a `module:function` that may not be imported here; called before its module is looked for.

    Raises:
        Refusal: naming the recipe's field.
    """
    given = os.environ.get(FUNCTIONS, OWN_FUNCTIONS if is_worker() else None)
    if given is None:
        return
    allowed = [each.strip() for each in given.split(",") if each.strip()]
    module = name.partition(":")[0]
    if not any(name == each or module == each or module.startswith(f"{each}.") for each in allowed):
        raise Refusal(
            where=field,
            found=f"{name}, which this machine may not import",
            allowed=f"functions of {', '.join(allowed) or 'no module'}",
            remedy=f"have the owner of this worker add its module to {FUNCTIONS}",
        )


def refuse_remote_code(field: str) -> None:
    """Refuse `trust_remote_code` on a worker that does not allow it.

    Raises:
        Refusal: naming the recipe's field.
    """
    _refuse_code(field, "take a model that transformers knows")


def refuse_task_code(field: str) -> None:
    """Refuse `allow_code` of a benchmark on a worker that does not allow it.

    Raises:
        Refusal: naming the recipe's field.
    """
    _refuse_code(field, "take a task that runs no code")


def _refuse_code(field: str, instead: str) -> None:
    if is_worker() and os.environ.get(REMOTE_CODE, "") != "1":
        raise Refusal(
            where=field,
            found="true, on a worker that runs the recipes of others",
            allowed="false",
            remedy=f"{instead}, or have the owner of this worker set {REMOTE_CODE}=1",
        )
