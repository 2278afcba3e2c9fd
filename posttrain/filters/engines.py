"""Who runs the tasks of a filter run: this process, a pool of processes, or a Ray cluster. The tasks are the same functions."""

from __future__ import annotations

import multiprocessing.context
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Protocol, TypeVar

from posttrain.data.sources import SourceFile
from posttrain.filters.plan import state
from posttrain.runtime.child_processes import die_with_starter
from posttrain.text.kernels.compiling import cache_of_user, keep_compiled, kept_in
from schemas.errors import Refusal

R = TypeVar("R")
BYTES_OF_A_WORKER = 64 << 20  # of input: less is not worth the seconds in which a process starts
Arguments = tuple[Any, ...]


def _ignore(result: object) -> None:
    pass


class Engine(Protocol):
    """Runs a task for each tuple of arguments."""

    here: bool
    """Whether tasks run in this process, so that they may be given functions to call."""

    def map(self, task: Callable[..., R], calls: Sequence[Arguments], on_result: Callable[[R], None] = _ignore) -> list[R]:
        """Results in the order of `calls`; `on_result` is told each as it is there.

        Raises:
            Refusal: that of the first call, in their order, that is refused, after all have ended.
        """


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_workers(files: Sequence[SourceFile], most: int) -> int:
    """How many processes of this machine a corpus is worth: several only for several files, and not for small ones."""
    return int(min(most, len(files), 1 + sum(state(file.url)[0] for file in files) // BYTES_OF_A_WORKER))


def attempt(task: Callable[..., R], arguments: Arguments) -> R | Refusal:
    """A refusal is a result: engines wrap exceptions each in its own way."""
    try:
        return task(*arguments)
    except Refusal as refusal:
        return refusal


def unwrapped(results: Sequence[R | Refusal]) -> list[R]:
    """The results, unless one is a refusal, which is raised: the first in the order of the calls."""
    for result in results:
        if isinstance(result, Refusal):
            raise result
    return [result for result in results if not isinstance(result, Refusal)]


class Here:
    """This process alone."""

    here = True

    def map(self, task: Callable[..., R], calls: Sequence[Arguments], on_result: Callable[[R], None] = _ignore) -> list[R]:
        """See `Engine`; stops at the first refusal."""
        results = []
        for call in calls:
            results.append(task(*call))
            on_result(results[-1])
        return results


class Processes:
    """A pool of processes on this machine, which end with this one."""

    here = False

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def map(self, task: Callable[..., R], calls: Sequence[Arguments], on_result: Callable[[R], None] = _ignore) -> list[R]:
        """See `Engine`."""
        futures = [self._pool.submit(attempt, task, call) for call in calls]
        for future in as_completed(futures):
            result = future.result()
            if not isinstance(result, Refusal):
                on_result(result)
        return unwrapped([future.result() for future in futures])


class RayTasks:
    """Plain tasks of a Ray cluster, which must see the files and the folder of the pieces under the same paths."""

    here = False

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def map(self, task: Callable[..., R], calls: Sequence[Arguments], on_result: Callable[[R], None] = _ignore) -> list[R]:
        """See `Engine`."""
        remote = self._ray.remote(attempt)
        pending = {remote.remote(task, call): place for place, call in enumerate(calls)}
        results: dict[int, R | Refusal] = {}
        while pending:
            (ready,), _ = self._ray.wait(list(pending), num_returns=1)
            result = results[pending.pop(ready)] = self._ray.get(ready)
            if not isinstance(result, Refusal):
                on_result(result)
        return unwrapped([results[place] for place in range(len(calls))])


def _start_worker(compiled: Path | None) -> None:
    """Before the first task, whose module imports the kernels."""
    die_with_starter()
    os.environ.setdefault("POLARS_MAX_THREADS", "1")  # each process has one core; polars asks when it is first given work
    if compiled:
        keep_compiled(compiled)


def _start_ray_worker() -> None:
    """Likewise: a task names its module, which is imported before the task is called."""
    keep_compiled(cache_of_user())


@contextmanager
def local(workers: int, compiled: Path | None = None) -> Iterator[Engine]:
    """This process, or so many of their own.

    Args:
        compiled: folder that keeps compiled kernels; by default they lie beside their sources.
    """
    if workers == 1:
        yield Here()
        return
    try:
        with ProcessPoolExecutor(workers, start_of_workers(), _start_worker, (compiled,)) as pool:
            try:
                yield Processes(pool)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        server: Any = forkserver._forkserver
        server._stop()  # else it would hold its memory as long as this process lives; nothing public does it


def start_of_workers() -> multiprocessing.context.BaseContext:
    """How processes of a pool start: forked off one that imports what they need, once for all and from now on.

    A fork of this process would copy the locks of threads that it has not. Where there is no such server they start afresh.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["posttrain.filters.worker"])
    with _environment("NUMBA_CACHE_DIR", kept_in()):
        forkserver.ensure_running()
    return context


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """A variable for the processes that are started meanwhile; an empty one changes nothing."""
    before = os.environ.get(name)
    if value:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


@contextmanager
def ray(address: str | None) -> Iterator[Engine]:
    """A Ray cluster, or one that is started on this machine where no address is given.

    Raises:
        Refusal: when Ray is not installed, or nothing answers at the address.
    """
    try:
        import ray as library
    except ImportError as error:
        remedy = "install the extra: pip install 'posttrain[ray]'"
        raise Refusal(where="--engine", found="ray, which is not installed", allowed="local here", remedy=remedy) from error
    try:
        hook = {"worker_process_setup_hook": _start_ray_worker}
        library.init(address=address, log_to_driver=False, configure_logging=False, runtime_env=hook)
    except (ConnectionError, RuntimeError, ValueError) as error:
        remedy = "start the cluster, or correct the address"
        raise Refusal(where="--address", found=f"{address}: {error}", allowed="a Ray cluster", remedy=remedy) from error
    try:
        yield RayTasks(library)
    finally:
        library.shutdown()
