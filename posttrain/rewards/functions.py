"""Rewards from a Python function of the user: whatever it does wrong is refused with its name and the prompt that showed it.

The function takes (prompts, responses) or (prompts, responses, rows). It gives for each response a number, None where it does not
apply, or a `Verdict` with what it read the number from. `sample_rows` of `rows.py` says what is in a row. It is called in this
process, or in some of its own, each with a part of the responses.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from posttrain.rewards.calls import Rows, in_time, said, takes_rows
from posttrain.runtime.permissions import refuse_function
from posttrain.runtime.progress import current
from schemas.errors import Refusal

if TYPE_CHECKING:
    from posttrain.rewards.pool import Pool

REMEDY = "mend the reward function and run again; finished stages and checkpoints are kept"
LARGEST = 3.4028234e38  # of fp32, in which PPO adds rewards up: one beyond it would be infinite there
SHOWN = 80  # characters of a prompt in a message
EACH = "one per response: a number, None where the function does not apply, or a Verdict"
FINITE = f"finite numbers of at most {LARGEST:.1e}, in fp32"


class Verdict(NamedTuple):
    """What a function says of one response."""

    reward: float | None
    """None: it does not apply to this response, which then counts in no mean and no advantage."""
    extracted: str | None = None
    """What the reward was read from, for people: the number that was found in the response, say."""
    failed: bool = False
    """Whether the function failed with this response: it raised, died, hung, or gave no finite number."""


class _Failed(Exception):
    """The function did not work for one response, or for all of them together where `index` is None."""

    def __init__(self, found: str, allowed: str, index: int | None) -> None:
        super().__init__(found)
        self.allowed, self.index = allowed, index


class TooMany(_Failed):
    """More responses failed than may."""


@dataclass(frozen=True)
class RewardFunction:
    """A function of the user, checked on every call.

    A call raises Refusal when the function raises, dies, takes too long, or gives the wrong number of rewards or one that is not
    finite in fp32, for more responses than the share `max_failed`. It names the index of the first prompt that was to blame.
    """

    function: Callable[..., Sequence[Any]]
    name: str
    field: str
    timeout: float | None
    max_failed: float
    with_rows: bool
    pool: Pool | None = None

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], rows: Rows | None = None) -> list[float | None]:
        """The reward of each response, None where the function does not apply."""
        return [verdict.reward for verdict in self.verdicts(prompts, responses, rows)]

    def verdicts(self, prompts: Sequence[str], responses: Sequence[str], rows: Rows | None = None) -> list[Verdict]:
        """What the function says of each response, all in one call, or as many as there are processes; failures as it allows."""
        rows = rows if rows is not None else [{} for _ in responses]
        call = _Call(self, prompts, responses, rows, int(self.max_failed * len(prompts) + 1e-9))
        try:
            found = call.all()
        except _Failed as failure:
            more = f"; {len(call.failed)} responses failed, {self.max_failed:.0%} may" if self.max_failed else ""
            told = f"{failure}{_at(prompts, failure.index)}{more}"
            raise Refusal(
                where=f"{self.field} ({self.name})", found=told, allowed=failure.allowed, remedy=REMEDY
            ) from failure.__cause__
        if call.failed:
            first = min(call.failed)
            told = f"failed for {len(call.failed)} of {len(prompts)} responses: {call.failed[first]}{_at(prompts, first)}"
            current().note(f"{self.field} ({self.name}): {told}")
        return found


@dataclass
class _Call:
    """One call with many responses; what fails is found by asking for each response alone."""

    of: RewardFunction
    prompts: Sequence[str]
    responses: Sequence[str]
    rows: Rows
    allowed: int

    def __post_init__(self) -> None:
        self.failed: dict[int, str] = {}

    def all(self) -> list[Verdict]:
        """The verdicts, in order."""
        whole = range(len(self.responses))
        if self.of.pool is None or not whole:
            return self.part(whole)
        size = -(-len(whole) // len(self.of.pool.workers))
        parts = [whole[start : start + size] for start in range(0, len(whole), size)]
        with ThreadPoolExecutor(len(parts), thread_name_prefix="reward") as threads:
            return list(itertools.chain.from_iterable(threads.map(self.part, parts)))

    def part(self, rows: range) -> list[Verdict]:
        """Of some responses, together where that works."""
        try:
            found = self.ask(rows, self.of.timeout)
        except (Exception, SystemExit) as error:  # a `sys.exit(0)` of the user's would end the run as if it were done
            return self.one_by_one(rows, said(error), error)
        if len(found) != len(rows):
            told = f"{len(found)} rewards for {len(rows)} responses"
            raise _Failed(told, "one reward per response", None)
        return [self.checked(row, verdict) for row, verdict in zip(rows, found, strict=True)]

    def one_by_one(self, rows: range, together: str, error: BaseException) -> list[Verdict]:
        """Every response alone, as far as some may fail."""
        each = None if self.of.timeout is None else self.of.timeout / len(self.prompts)
        found, before = list[Verdict](), len(self.failed)
        for row in rows:
            try:
                (verdict,) = self.ask(range(row, row + 1), each)
            except (Exception, SystemExit) as alone:
                found.append(self.fail(row, together if len(rows) == 1 or not self.allowed else said(alone), EACH, error))
            else:
                found.append(self.checked(row, verdict))
        if len(self.failed) == before:
            raise _Failed(together, EACH, None) from error
        return found

    def ask(self, rows: range, timeout: float | None) -> list[Verdict]:
        """Call the function with some of the responses."""
        part = slice(rows.start, rows.stop)
        given = (self.prompts[part], self.responses[part], *((self.rows[part],) if self.of.with_rows else ()))
        if self.of.pool is None:
            return [as_verdict(verdict) for verdict in in_time(lambda: self.of.function(*given), timeout)]
        asked = (*given, None)[:3]
        return [Verdict(*verdict) for verdict in self.of.pool.ask(asked, len(rows), timeout if timeout is not None else 1e9)]

    def checked(self, row: int, verdict: Verdict) -> Verdict:
        """The verdict, which has a number that PPO can use, or none."""
        if verdict.reward is None or abs(verdict.reward) <= LARGEST:
            return verdict
        return self.fail(row, str(verdict.reward), FINITE)

    def fail(self, row: int, found: str, allowed: str, error: BaseException | None = None) -> Verdict:
        """Count a failure.

        Raises:
            TooMany: once there are more than may be.
        """
        self.failed[row] = found
        if len(self.failed) > self.allowed:
            first = min(self.failed)
            raise TooMany(self.failed[first], allowed, first) from error
        return Verdict(None, found[:SHOWN], failed=True)


def load_function(
    name: str, field: str, timeout: float | None = None, max_failed: float = 0.0, workers: int = 0, memory: int = 0
) -> RewardFunction:
    """The function that `module:function` means, checked on every call.

    A function that has an attribute `check` is asked by it first whether it can work on this machine.

    Args:
        name: `module:function`.
        field: the recipe's field, for refusals.
        timeout: seconds that a call may take; None waits for ever.
        max_failed: share of a call's responses with which the function may fail; they count as ones that it does not apply to.
        workers: processes that share a call's responses; 0 calls in this one, where a call that hangs cannot be ended.
        memory: bytes of address space that each of them may take; 0 is no limit.

    Raises:
        Refusal: when module or function does not exist, may not be imported on this machine, or takes other arguments; and what
            its own check raises.
    """
    function = import_function(name, field)
    try:
        with_rows = takes_rows(function)
    except TypeError as error:
        raise Refusal(
            where=field,
            found=f"{name}: {error}",
            allowed="a function of (prompts, responses) or (prompts, responses, rows)",
            remedy="change its arguments",
        ) from error
    check: Callable[[], None] | None = getattr(function, "check", None)
    if check is not None:
        check()
    return RewardFunction(function, name, field, timeout, max_failed, with_rows, _pool(name, field, workers, memory))


def _pool(name: str, field: str, workers: int, memory: int) -> Pool | None:
    if not workers:
        return None
    from posttrain.rewards.pool import Pool, Worker

    return Pool([Worker(name, field, memory) for _ in range(workers)])


@contextmanager
def modules_of_user() -> Iterator[None]:
    """Inside, modules of the working directory can be imported: last of all, so that none takes the place of a library's."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(here)]  # the last one


def import_function(name: str, field: str) -> Callable[..., Sequence[Any]]:
    """What `module:function` names.

    Raises:
        Refusal: when it does not exist, or may not be imported on this machine.
    """
    refuse_function(name, field)
    module, _, attribute = name.partition(":")
    try:
        with modules_of_user():
            function: Callable[..., Sequence[Any]] = getattr(importlib.import_module(module), attribute)
        if not callable(function):
            raise TypeError("not a function")
    except (Exception, SystemExit) as error:  # the module is the user's and may raise anything, or be a script that exits
        raise Refusal(
            where=field, found=f"{name} ({error})", allowed="an importable module:function", remedy="check the spelling"
        ) from error
    return function


def as_verdict(given: Any) -> Verdict:
    """What a function gave for one response.

    Raises:
        TypeError, ValueError: when it is no number.
    """
    if isinstance(given, Verdict):
        return Verdict(None if given.reward is None else float(given.reward), given.extracted)
    return Verdict(None if given is None else float(given))


def _at(prompts: Sequence[str], index: int | None) -> str:
    if index is None:
        return f" for prompts 0 to {len(prompts) - 1} together"
    return f" for prompt {index}: {prompts[index][:SHOWN]!r}"
