"""A filter run whose tasks are Prefect's: each shard is a task run of its own, in a process of the flow's task runner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.tasks import task

from posttrain.filters.engines import Arguments, attempt, unwrapped
from posttrain.runtime import redaction
from posttrain.text.kernels.compiling import cache_of_user, keep_compiled
from schemas.errors import Refusal

R = TypeVar("R")


@task(name="shard", task_run_name="{what} {number}", cache_policy=NO_CACHE, persist_result=False)
def shard(what: str, number: int, work: Callable[..., Any], arguments: Arguments) -> Any:
    """One task of a filter run; a refusal is a result. It writes its pieces whole or not at all, so that it may run again."""
    keep_compiled(cache_of_user())
    with redaction.cleaned_errors():
        return attempt(work, arguments)


class PrefectTasks:
    """The engine of `posttrain.filters.engines` on the task runner of the flow that it is used in."""

    here = False

    def map(
        self, task: Callable[..., R], calls: Sequence[Arguments], on_result: Callable[[R], None] = lambda result: None
    ) -> list[R]:
        """See `Engine`."""
        futures = [shard.submit(task.__name__.replace("_", " "), number, task, call) for number, call in enumerate(calls)]
        for future in as_completed(futures):
            result = future.result()
            if not isinstance(result, Refusal):
                on_result(result)
        return unwrapped([future.result() for future in futures])
