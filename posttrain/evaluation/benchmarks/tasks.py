"""The tasks of a benchmark: from lm-eval's catalogue, or from a folder of the user's whose templates run in a sandbox."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from jinja2 import BaseLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from posttrain.pipeline.benchmark_check import folder_of, is_read_as_data, manager_of
from posttrain.pipeline.benchmark_folder import own_tasks
from schemas.benchmarks import Benchmark
from schemas.errors import Refusal


def load_tasks(benchmark: Benchmark, seed: int, where: str) -> dict[str, Any]:
    """The tasks that a benchmark stands for, by name, with their data: one, or those of a group.

    Raises:
        Refusal: when the data cannot be read, or a task runs code that the recipe does not allow.
    """
    with rendering(benchmark), _refusing(benchmark, where):
        if is_read_as_data(benchmark):
            from lm_eval.api.task import ConfigurableTask

            config = own_tasks(folder_of(benchmark), f"{where}.folder")[benchmark.task]
            config.pop("tag", None)
            tasks: dict[str, Any] = {benchmark.task: ConfigurableTask(config=config)}
        else:
            tasks = dict(manager_of(benchmark).load([benchmark.task])["tasks"])
    for name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False) and not benchmark.allow_code:
            raise Refusal(
                where=f"{where}.allow_code",
                found=f"false, and {name} runs what the model writes",
                allowed="true, or another task",
                remedy="set it where you would run code of the model's",
            )
        shots = benchmark.shots if benchmark.shots is not None else task.get_config("num_fewshot")
        task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=seed)
    return tasks


@contextlib.contextmanager
def rendering(benchmark: Benchmark) -> Iterator[None]:
    """Inside, lm-eval renders the templates of a task by somebody else in Jinja's sandbox: its own environment has none."""
    if not is_read_as_data(benchmark):
        yield
        return
    from lm_eval import utils

    theirs = utils.env
    ours = ImmutableSandboxedEnvironment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
    ours.filters |= {"regex_replace": utils.regex_replace}
    utils.env = ours
    try:
        yield
    finally:
        utils.env = theirs


@contextlib.contextmanager
def _refusing(benchmark: Benchmark, where: str) -> Iterator[None]:
    """What lm-eval and datasets raise about a task, as a refusal: it may be anything."""
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(
            where=f"{where}.task",
            found=f"{benchmark.task}, which cannot be loaded ({type(error).__name__}: {str(error)[:300]})",
            allowed="a task whose data are on this machine or can be fetched",
            remedy="correct the task, fetch its data before, or name another one",
        ) from error
