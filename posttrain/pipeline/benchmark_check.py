"""What rules out a benchmark before anything trains: no lm-eval, no such task, or one that would run code."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from posttrain.pipeline.benchmark_folder import own_tasks
from posttrain.runtime.permissions import refuse_task_code
from schemas.benchmarks import Benchmark
from schemas.errors import Refusal, closest
from schemas.recipe import Recipe

OLDEST = (0, 4, 13)


def check_harness(where: str) -> None:
    """Refuse an installation without lm-eval, or with one that is too old.

    Raises:
        Refusal: naming the extra.
    """
    if importlib.util.find_spec("lm_eval") is not None:
        found = importlib.metadata.version("lm_eval")
        if tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) >= OLDEST:
            return
    else:
        found = "nothing"
    raise Refusal(
        where=where,
        found=f"benchmarks, and {found} of lm-eval installed",
        allowed=f"lm-eval {'.'.join(map(str, OLDEST))} or newer",
        remedy="pip install 'posttrain[benchmarks]'",
    )


def check_tasks(benchmark: Benchmark, where: str) -> None:
    """Refuse a benchmark whose task is not there, or may not run here; loads no data.

    Raises:
        Refusal: naming the field, or the file and key of a folder.
    """
    check_harness(where)
    if benchmark.allow_code:
        refuse_task_code(f"{where}.allow_code")
    own = is_read_as_data(benchmark)
    names = list(own_tasks(folder_of(benchmark), f"{where}.folder")) if own else manager_of(benchmark).all_tasks
    if benchmark.task not in names:
        guess = closest(benchmark.task, names)
        raise Refusal(
            where=f"{where}.task",
            found=f"{benchmark.task}, which is no task of {benchmark.folder or 'this version of lm-eval'}",
            allowed=f"one of {', '.join(sorted(names)[:20])}{' ...' if len(names) > 20 else ''}",
            remedy=f"did you mean {guess}?" if guess else "check the spelling, or name the folder that it is in",
        )


def check_benchmarks(recipe: Recipe) -> None:
    """Check every benchmark of a recipe.

    Raises:
        Refusal: as `check_tasks`.
    """
    for index, benchmark in enumerate(recipe.evaluation.benchmarks):
        check_tasks(benchmark, f"evaluation.benchmarks.{index}")


def is_read_as_data(benchmark: Benchmark) -> bool:
    """Whether the task is somebody's YAML of which no code may run."""
    return benchmark.folder is not None and not benchmark.allow_code


def folder_of(benchmark: Benchmark) -> Path:
    """The folder of the user's own tasks."""
    return Path(benchmark.folder or "").expanduser().resolve()


def manager_of(benchmark: Benchmark) -> Any:
    """The catalogue of lm-eval, with the tasks of a folder that may run code."""
    return _catalogue(str(folder_of(benchmark)) if benchmark.folder else None)


@functools.lru_cache(maxsize=4)
def _catalogue(folder: str | None) -> Any:
    """Reading the thousands of files of the catalogue takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder)
