"""Rewards from a Python function of the user: whatever it does wrong is refused with its name and the prompt that showed it.

The function takes (prompts, responses) or (prompts, responses, rows). It gives for each response a number, None where it does not
apply, or a `Verdict` with what it read the number from. `rewarded_rows` of `rows.py` says what is in a row.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from posttrain.rewards.calls import Rows, in_time, said, takes_rows
from posttrain.runtime.permissions import refuse_function
from schemas.errors import Refusal

REMEDY = "mend the reward function and run again; finished stages and checkpoints are kept"
LARGEST = 3.4028234e38  # of fp32, in which PPO adds rewards up: one beyond it would be infinite there
SHOWN = 80  # characters of a prompt in a message
EACH = "one per response: a number, None where the function does not apply, or a Verdict"


class Verdict(NamedTuple):
    """What a function says of one response."""

    reward: float | None
    """None: it does not apply to this response, which then counts in no mean and no advantage."""
    extracted: str | None = None
    """What the reward was read from, for people: the number that was found in the response, say."""
    failed: bool = False
    """Whether the function raised, or was not back in time, with this response alone."""


@dataclass(frozen=True)
class RewardFunction:
    """A function of the user, checked on every call.

    A call raises Refusal when the function raises, takes too long, or gives the wrong number of rewards or one that is not finite
    in fp32. It names the index of the prompt that was to blame.
    """

    function: Callable[..., Sequence[Any]]
    name: str
    field: str
    timeout: float | None
    max_failed: float
    with_rows: bool

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], rows: Rows | None = None) -> list[float | None]:
        """The reward of each response, None where the function does not apply."""
        return [verdict.reward for verdict in self.verdicts(prompts, responses, rows)]

    def verdicts(self, prompts: Sequence[str], responses: Sequence[str], rows: Rows | None = None) -> list[Verdict]:
        """What the function says of each response; at most the share `max_failed` of them may fail, each asked for alone."""
        rows = rows if rows is not None else [{} for _ in responses]
        try:
            found = [_verdict(each) for each in self._ask(prompts, responses, rows, self.timeout)]
        except (Exception, SystemExit) as error:  # a `sys.exit(0)` of the user's would end the run as if it were done
            found = self._one_by_one(prompts, responses, rows, error)
        if len(found) != len(responses):
            told = f"{len(found)} rewards for {len(responses)} responses (prompts 0 to {len(prompts) - 1})"
            raise self._bad(told, "one reward per response")
        for index, verdict in enumerate(found):
            if verdict.reward is not None and not abs(verdict.reward) <= LARGEST:
                told = f"{verdict.reward}{_at(prompts, index)}"
                raise self._bad(told, f"finite numbers of at most {LARGEST:.1e}, in fp32")
        return found

    def _ask(self, prompts: Sequence[str], responses: Sequence[str], rows: Rows, timeout: float | None) -> list[Any]:
        given = (prompts, responses, rows) if self.with_rows else (prompts, responses)
        return in_time(lambda: self.function(*given), timeout)

    def _one_by_one(self, prompts: Sequence[str], responses: Sequence[str], rows: Rows, error: BaseException) -> list[Verdict]:
        """Every response alone, as far as some may fail; else up to the first that fails, which is named.

        Raises:
            Refusal: when too many fail, or when each alone does not and all together do.
        """
        each = None if self.timeout is None else self.timeout / len(prompts)
        found: list[Verdict] = []
        failed: list[int] = []
        for index, (prompt, response, row) in enumerate(zip(prompts, responses, rows, strict=True)):
            try:
                (verdict,) = map(_verdict, self._ask([prompt], [response], [row], each))
            except (Exception, SystemExit):  # what it was is known: asked is for which prompt
                failed.append(index)
                verdict = Verdict(None, failed=True)
                if len(failed) > self.max_failed * len(prompts):
                    break
            found.append(verdict)
        if failed and len(failed) <= self.max_failed * len(prompts):
            return found
        more = f"; {len(failed)} responses failed, {self.max_failed:.0%} may" if self.max_failed else ""
        raise self._bad(f"{said(error)}{_at(prompts, failed[0] if failed else None)}{more}", EACH) from error

    def _bad(self, found: str, allowed: str) -> Refusal:
        return Refusal(where=f"{self.field} ({self.name})", found=found, allowed=allowed, remedy=REMEDY)


def load_function(name: str, field: str, timeout: float | None = None, max_failed: float = 0.0) -> RewardFunction:
    """The function that `module:function` means, checked on every call.

    A function that has an attribute `check` is asked by it first whether it can work on this machine.

    Args:
        name: `module:function`.
        field: the recipe's field, for refusals.
        timeout: seconds that a call may take; None waits for ever.
        max_failed: share of a call's responses with which the function may fail; they count as ones that it does not apply to.

    Raises:
        Refusal: when module or function does not exist, may not be imported on this machine, or takes other arguments; and what
            its own check raises.
    """
    function = _imported(name, field)
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
    return RewardFunction(function, name, field, timeout, max_failed, with_rows)


@contextmanager
def modules_of_user() -> Iterator[None]:
    """Inside, modules of the working directory can be imported: last of all, so that none takes the place of a library's."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(here)]  # the last one


def _imported(name: str, field: str) -> Callable[..., Sequence[Any]]:
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


def _verdict(given: Any) -> Verdict:
    if isinstance(given, Verdict):
        return Verdict(None if given.reward is None else float(given.reward), given.extracted)
    return Verdict(None if given is None else float(given))


def _at(prompts: Sequence[str], index: int | None) -> str:
    if index is None:
        return f" for prompts 0 to {len(prompts) - 1} together"
    return f" for prompt {index}: {prompts[index][:SHOWN]!r}"
