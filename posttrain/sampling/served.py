"""Responses drawn by a server: completions of token ids over OpenAI's protocol, from a LoRA that it loads as vLLM does.

vLLM: `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve POLICY --enable-lora --max-lora-rank R --logprobs-mode processed_logprobs`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from numpy.typing import NDArray

from posttrain.data.packing import Tokens
from posttrain.runtime.endpoint_address import opened_key, opened_url
from posttrain.sampling.sampler import Count, Sampling
from schemas.errors import Refusal
from schemas.ppo_parts import ServedSampler

PAUSE = 0.5  # seconds before a request is sent again, doubled each time
TOKEN = "token_id:"  # how a server writes a token's number, when asked to
LARGEST = 1 << 26  # bytes of one answer
SHOWN = 200  # characters of what a server says that a message repeats
FIELD = "alignment.sampler"


class Drawn(NamedTuple):
    """A response, and what the server gave each of its tokens."""

    tokens: Tokens
    logprobs: NDArray[np.float32]
    """NaN where it said nothing."""


class Server:
    """A client of one server.

    Raises:
        Refusal: when its address may not be asked, or the key is not there.
    """

    def __init__(self, spec: ServedSampler) -> None:
        self.spec, self.url = spec, opened_url(spec, FIELD)
        key = opened_key(spec, FIELD)
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        # Without TLS no proxy of the environment is asked: the address would be its affair then.
        self.client = httpx.Client(headers=headers, timeout=spec.timeout_seconds, trust_env=self.url.startswith("https:"))
        self.name = spec.model  # of what is asked: the policy at the start, or the last LoRA

    def load(self, adapter: Path) -> None:
        """Have the server read a LoRA, and draw from it from now on; the one before is forgotten."""
        before, name = self.name, f"{self.spec.model}-{uuid.uuid4().hex}"
        self._post("/load_lora_adapter", {"lora_name": name, "lora_path": str(adapter)})
        self.name = name
        if before != self.spec.model:
            self._post("/unload_lora_adapter", {"lora_name": before})

    def draw(self, prompts: Sequence[Tokens], plan: Sampling, on_rows: Count = lambda n: None) -> list[tuple[Drawn, ...]]:
        """`plan.samples` responses to each prompt, in their order."""

        def one(each: tuple[int, Tokens]) -> tuple[Drawn, ...]:
            index, prompt = each
            body = self._post("/completions", self._asked(prompt, plan, index))
            on_rows(plan.samples)
            return self._read(body, plan)

        with ThreadPoolExecutor(self.spec.concurrency, thread_name_prefix="sampler") as threads:
            return list(threads.map(one, enumerate(prompts)))

    def _asked(self, prompt: Tokens, plan: Sampling, index: int) -> dict[str, Any]:
        """The request for one prompt, from the full distribution."""
        return {
            "model": self.name, "prompt": prompt.tolist(), "n": plan.samples, "max_tokens": plan.max_new_tokens,
            "temperature": plan.temperature, "top_p": 1.0, "seed": (plan.seed + index) % 2**31, "logprobs": 0,
            "return_tokens_as_token_ids": True, "skip_special_tokens": False, "stop_token_ids": list(plan.ends),
        }  # fmt: skip

    def _read(self, body: Mapping[str, Any], plan: Sampling) -> tuple[Drawn, ...]:
        try:
            found = tuple(_drawn(choice, plan) for choice in sorted(body["choices"], key=lambda choice: choice["index"]))
        except (KeyError, TypeError, ValueError) as error:
            raise self._refused(f"no completion with token ids: {str(body)[:SHOWN]}") from error
        if len(found) != plan.samples:
            raise self._refused(f"{len(found)} completions where {plan.samples} were asked for")
        return found

    def _post(self, path: str, content: Mapping[str, Any]) -> Any:
        """The answer to a request, sent again as long as its failure may pass."""
        said = ""
        for pause in _pauses(self.spec.retries):
            time.sleep(pause)
            try:
                status, body = self._sent(path, content)
            except httpx.HTTPError as error:
                said = f"{type(error).__name__} at {path}"
                continue
            if 200 <= status < 300:
                return _parsed(body)
            said = f"status {status} at {path}: {body[:SHOWN].decode(errors='replace')}"
            if status < 500 and status not in (408, 429):
                break
        raise self._refused(said)

    def _sent(self, path: str, content: Mapping[str, Any]) -> tuple[int, bytes]:
        """Status and body of one answer, bounded in time and size; no redirect is followed."""
        until, body = time.monotonic() + self.spec.timeout_seconds, bytearray()
        with self.client.stream("POST", self.url + path, json=content) as response:
            for piece in response.iter_raw():
                body += piece
                if len(body) > LARGEST or time.monotonic() > until:
                    raise httpx.ReadTimeout("an answer that is too long, or takes too long")
            return response.status_code, bytes(body)

    def _refused(self, found: str) -> Refusal:
        return Refusal(
            where=FIELD,
            found=f"{self.spec.model} at {self.spec.url}: {found}",
            allowed="a server of completions that takes and returns token ids, and loads LoRAs",
            remedy="look at the server and run again: finished iterations are kept",
        )


def _parsed(body: bytes) -> Any:
    """What JSON says; the text itself where it is none, as vLLM answers when it has loaded a LoRA."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


def _pauses(retries: int) -> Iterator[float]:
    """Seconds before each attempt."""
    return (PAUSE * 2.0 ** (attempt - 1) if attempt else 0.0 for attempt in range(retries + 1))


def _drawn(choice: Mapping[str, Any], plan: Sampling) -> Drawn:
    """One completion. A server may leave out the token that ended it."""
    said = choice["logprobs"]
    tokens = [int(token.removeprefix(TOKEN)) for token in said["tokens"]]
    logprobs = [np.nan if value is None else float(value) for value in said["token_logprobs"]]
    if choice["finish_reason"] == "stop" and plan.ends and (not tokens or tokens[-1] not in plan.ends):
        tokens, logprobs = [*tokens, plan.ends[0]], [*logprobs, np.nan]
    if not tokens or len(tokens) != len(logprobs):
        raise ValueError("no tokens, or not one probability for each")
    return Drawn(np.array(tokens, np.int32), np.array(logprobs, np.float32))
