"""Rewards from a Python function of the user: whatever it does wrong is refused with its name and the prompt that showed it."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from posttrain.runtime.permissions import refuse_function
from schemas.errors import Refusal

Reward = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
REMEDY = "mend the reward function and run again; finished stages and checkpoints are kept"
LARGEST = 3.4028234e38  # of fp32, in which PPO adds rewards up: one beyond it would be infinite there
SHOWN = 80  # characters of a prompt in a message


class TooLong(Exception):
    """A call was not back in time."""


def load_function(name: str, field: str, timeout: float | None = None) -> Reward:
    """The function that `module:function` means, checked on every call.

    Args:
        name: `module:function`.
        field: the recipe's field, for refusals.
        timeout: seconds that a call may take; None waits for ever.

    Raises:
        Refusal: when module or function does not exist, or may not be imported on this machine; from the returned function,
            when a call raises, takes too long, or gives the wrong number of rewards or one that is not finite in fp32. It
            names the index of the prompt that was to blame.
    """
    function = _imported(name, field)

    def checked(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        try:
            rewards = [float(reward) for reward in _in_time(function, prompts, responses, timeout)]
        except (Exception, SystemExit) as error:  # a `sys.exit(0)` of the user's would end the run as if it were done
            index = _culprit(function, prompts, responses, timeout)
            raise _bad(name, field, f"{_said(error)}{_at(prompts, index)}", "one number per response") from error
        if len(rewards) != len(responses):
            found = f"{len(rewards)} rewards for {len(responses)} responses (prompts 0 to {len(prompts) - 1})"
            raise _bad(name, field, found, "one reward per response")
        for index, reward in enumerate(rewards):
            if not abs(reward) <= LARGEST:
                raise _bad(name, field, f"{reward}{_at(prompts, index)}", f"finite numbers of at most {LARGEST:.1e}, in fp32")
        return rewards

    return checked


@contextmanager
def modules_of_user() -> Iterator[None]:
    """Inside, modules of the working directory can be imported: last of all, so that none takes the place of a library's."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(here)]  # the last one


def _imported(name: str, field: str) -> Reward:
    refuse_function(name, field)
    module, _, attribute = name.partition(":")
    try:
        with modules_of_user():
            function: Reward = getattr(importlib.import_module(module), attribute)
        if not callable(function):
            raise TypeError("not a function")
    except (Exception, SystemExit) as error:  # the module is the user's and may raise anything, or be a script that exits
        raise Refusal(
            where=field, found=f"{name} ({error})", allowed="an importable module:function", remedy="check the spelling"
        ) from error
    return function


def _in_time(function: Reward, prompts: Sequence[str], responses: Sequence[str], timeout: float | None) -> Sequence[float]:
    """Call in a thread that is left behind when it does not come back: Python can stop no function from outside."""
    if timeout is None:
        return function(prompts, responses)
    outcome: list[Sequence[float] | BaseException] = []

    def call() -> None:
        try:
            outcome.append(list(function(prompts, responses)))
        except BaseException as error:  # raised again where the function was called from
            outcome.append(error)

    thread = threading.Thread(target=call, daemon=True, name="reward")
    thread.start()
    thread.join(timeout)
    if not outcome:
        raise TooLong(f"no answer within {timeout:g} s")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _culprit(function: Reward, prompts: Sequence[str], responses: Sequence[str], timeout: float | None) -> int | None:
    """The first prompt with which the function fails alone, or None where it fails for many together only."""
    each = None if timeout is None else timeout / len(prompts)
    for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        try:
            list(map(float, _in_time(function, [prompt], [response], each)))
        except (Exception, SystemExit):  # what it was is known: asked is for which prompt
            return index
    return None


def _at(prompts: Sequence[str], index: int | None) -> str:
    if index is None:
        return f" for prompts 0 to {len(prompts) - 1} together"
    return f" for prompt {index}: {prompts[index][:SHOWN]!r}"


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, TooLong) else f"{type(error).__name__}: {error}"


def _bad(name: str, field: str, found: str, allowed: str) -> Refusal:
    return Refusal(where=f"{field} ({name})", found=found, allowed=allowed, remedy=REMEDY)
