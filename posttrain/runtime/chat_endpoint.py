"""Asks a language model behind an OpenAI-compatible endpoint: many questions at once, each answered or counted with why not.

Every answer is kept by the content of its question, so that a run that is started again asks only for what it lacks. Requests,
time and bytes are bounded; redirects are not followed; the key goes into one header and nowhere else.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx

from posttrain.runtime.endpoint_address import opened_key, opened_url
from posttrain.runtime.trees import read_regular
from posttrain.runtime.writing import write_atomically
from schemas.endpoint import Endpoint
from schemas.errors import Refusal
from schemas.secrets import without_credentials

Messages = Sequence[Mapping[str, str]]
LARGEST = 1 << 20  # bytes of one answer of the server
SHOWN = 200  # characters of what a server says that a message repeats
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a question is asked again
GIVE_UP = 16  # questions in a row that the server did not answer, after which no more are asked
PASSING = frozenset({408, 409, 425, 429})  # statuses that may be others when asked again, as are all from 500
OF_ALL = {401: "its key", 403: "its key", 404: "its address, and the name of the model"}  # statuses that are no question's fault
LEAVING = 10.0  # seconds for connections to close
T = TypeVar("T")
BUDGET = "max_calls is used up"


class Reply(NamedTuple):
    """What came of one question."""

    text: str | None
    """The model's answer; None where there is none."""
    failure: str = ""
    """Why there is none."""


class _Failed(Exception):
    """A request without an answer."""

    def __init__(self, reason: str, passing: bool = True, pause: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.passing, self.pause = reason, passing, pause


class ChatEndpoint:
    """A client of one endpoint, which counts what it sends over all that it is asked.

    Args:
        spec: the endpoint and the limits.
        field: the recipe's field, for refusals.
        cache: folder of answers that were got before; None keeps none.

    Raises:
        Refusal: when the address may not be asked, or the key is not there.
    """

    def __init__(self, spec: Endpoint, field: str, cache: Path | None = None) -> None:
        self.spec, self.field, self.cache = spec, field, cache
        self.url = f"{opened_url(spec, field)}/chat/completions"
        key = opened_key(spec, field)
        own = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        self.headers = own | ({"Authorization": f"Bearer {key}"} if key else {})
        self.counts: Counter[str] = Counter()
        """Requests sent (`calls`), answers of the cache (`cached`), and questions by what came of them (`failed`, `budget`)."""
        self._in_a_row = 0  # questions that failed since the last one that was answered

    @property
    def described(self) -> str:
        """What was asked so far, in a sentence."""
        calls, cached, failed = (self.counts[name] for name in ("calls", "cached", "failed"))
        return f"{self.spec.model}: {calls:,} requests sent, {cached:,} answers were known, {failed:,} questions failed"

    def ask(
        self, questions: Sequence[Messages], on_replies: Callable[[int], None] = lambda n: None,
        keep: Callable[[str], bool] = lambda text: True,
    ) -> list[Reply]:  # fmt: skip
        """An answer to every question, in order; of equal ones one is asked.

        Args:
            questions: messages with `role` and `content`.
            on_replies: is told how many have been answered or given up.
            keep: whether an answer goes into the cache, which an unreadable one should not.

        Raises:
            Refusal: when the server says that it answers nobody like us: wrong key, no such model, another address.
        """
        self._in_a_row = 0  # it may be well again
        names = [self._name(messages) for messages in questions]
        replies = {name: Reply(text) for name in dict.fromkeys(names) if (text := self._cached(name)) is not None}
        self.counts["cached"] += len(replies)
        on_replies(len(replies))
        open_ones = {name: messages for name, messages in zip(names, questions, strict=True) if name not in replies}
        if open_ones:
            known = len(replies)
            replies |= _in_a_thread(self._all(open_ones, lambda done: on_replies(known + done), keep))
        return [replies[name] for name in names]

    async def _all(
        self, questions: Mapping[str, Messages], on_replies: Callable[[int], None], keep: Callable[[str], bool]
    ) -> dict[str, Reply]:
        found: dict[str, Reply] = {}
        queue = iter(questions.items())

        async def work(client: httpx.AsyncClient) -> None:
            for name, messages in queue:  # in order, so that a budget that ends leaves the last ones open
                found[name] = reply = await self._one(client, messages)
                if reply.text is not None and keep(reply.text):
                    self._keep(name, reply.text)
                on_replies(len(found))

        # Without TLS no proxy of the environment is asked: the address would be its affair then.
        async with httpx.AsyncClient(
            headers=self.headers, timeout=self.spec.timeout_seconds, trust_env=self.url.startswith("https:")
        ) as client:
            workers = [asyncio.create_task(work(client)) for _ in range(min(self.spec.concurrency, len(questions)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return found

    async def _one(self, client: httpx.AsyncClient, messages: Messages) -> Reply:
        """One question, asked again as long as its failures may pass."""
        reason = f"not asked: the endpoint failed {GIVE_UP} times in a row"
        for attempt in range(self.spec.retries + 1 if self._in_a_row < GIVE_UP else 0):
            if self.counts["calls"] >= self.spec.max_calls:
                self.counts["budget"] += 1
                return Reply(None, BUDGET)
            self.counts["calls"] += 1
            try:
                async with asyncio.timeout(self.spec.timeout_seconds):  # httpx bounds each read alone
                    text = await self._request(client, messages)
                self._in_a_row = 0
                return Reply(text)
            except TimeoutError:
                failed = _Failed(f"no answer in {self.spec.timeout_seconds:g} s")
            except httpx.HTTPError as error:
                failed = _Failed(f"{type(error).__name__}: {error}")
            except _Failed as error:
                failed = error
            reason = failed.reason
            if not failed.passing or attempt == self.spec.retries:
                break
            await asyncio.sleep(_pause(attempt) if failed.pause is None else failed.pause)
        self.counts["failed"] += 1
        self._in_a_row += 1
        return Reply(None, without_credentials(reason[:SHOWN]))

    async def _request(self, client: httpx.AsyncClient, messages: Messages) -> str:
        """The answer's text, from one request."""
        body = json.dumps(self._body(messages)).encode()  # of ASCII: httpx would not encode half a surrogate pair
        async with client.stream("POST", self.url, content=body) as response:
            answer = await _limited(response)
        if response.is_success:
            return without_credentials(_text(answer))
        said = f"status {response.status_code}: {answer[:SHOWN].decode(errors='replace')}"
        if response.is_redirect:
            raise self._refused(f"a redirect to {response.headers.get('location', 'nowhere')[:SHOWN]}", "the address it leads to")
        if response.status_code in OF_ALL:
            raise self._refused(said, OF_ALL[response.status_code])
        again = response.status_code in PASSING or response.status_code >= 500
        raise _Failed(said, again, _retry_after(response))

    def _body(self, messages: Messages) -> dict[str, Any]:
        return {"model": self.spec.model, "messages": list(messages), "temperature": 0, "max_tokens": self.spec.max_tokens}

    def _refused(self, found: str, check: str) -> Refusal:
        return Refusal(
            where=f"{self.field}.url",
            found=f"{found}, from {self.spec.url}",
            allowed="an endpoint that answers",
            remedy=f"check {check}; answers that were got are kept",
        )

    def _name(self, messages: Messages) -> str:
        """Of a question in the cache: everything that decides its answer."""
        return hashlib.sha256(json.dumps([self.spec.url, self._body(messages)], sort_keys=True).encode()).hexdigest()

    def _path(self, name: str) -> Path | None:
        return self.cache and self.cache / name[:2] / f"{name}.json"

    def _cached(self, name: str) -> str | None:
        path = self._path(name)
        if path is None:
            return None
        with suppress(OSError, ValueError):
            kept = json.loads(read_regular(path))
            if isinstance(kept, dict) and kept.get("question") == name and isinstance(kept.get("answer"), str):
                return str(kept["answer"])
        return None

    def _keep(self, name: str, text: str) -> None:
        path = self._path(name)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps({"question": name, "answer": text}))


def _in_a_thread(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives, from an event loop in a thread: the caller's may have one of its own. An interruption ends it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="chat-endpoint", daemon=True)
    thread.start()
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    finally:
        future.cancel()
        asyncio.run_coroutine_threadsafe(_settled(), loop).result(LEAVING)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LEAVING)
        loop.close()


async def _settled() -> None:
    """Wait for what was cancelled: connections are closed on the way."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


async def _limited(response: httpx.Response) -> bytes:
    """The body, as far as it is not too long; as it came, since a few compressed bytes may become gigabytes."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _Failed("a compressed answer, which was not asked for", passing=False)
    body = b""
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > LARGEST:
            raise _Failed(f"an answer of more than {LARGEST:,} bytes", passing=False)
    return body


def _text(body: bytes) -> str:
    """The content of the first choice."""
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise _Failed(f"no chat completion: {body[:SHOWN].decode(errors='replace')}")
    return text


def _pause(attempt: int) -> float:
    """Seconds before the next attempt: doubled each time, half of it by chance, so that not all ask again at once."""
    return min(FIRST_PAUSE * 2.0**attempt, LONGEST_PAUSE) * (0.5 + random.random() / 2)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the server asks to wait, as far as one can wait for it."""
    said = response.headers.get("retry-after", "")
    return min(float(said), LONGEST_PAUSE) if said.isascii() and said.isdigit() else None
