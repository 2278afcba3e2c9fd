"""OpenAI's `/v1/chat/completions` for a registered chat model, beside all that MLflow's own server answers.

MLflow's server has one address for predictions, `/invocations`, whatever a model's flavour is. This file is in every version:

    python chat_server.py models:/NAME@champion --port 8000

It needs what the version's requirements name, and runs where this project is not installed. Requests that wait at the same
time are decoded together.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import queue
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import mlflow
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from peft import PeftModel
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

TOGETHER = 16  # answers that are decoded at once, at most
IGNORED = {"model", "user", "stream", "n", "stream_options"}  # of a request: read here, or of no consequence


@dataclass
class Waiting:
    """A request on its way: token ids [1, length], checked parameters, and where its new tokens go."""

    ids: torch.Tensor
    settings: Any
    done: Future[torch.Tensor] = field(default_factory=Future)


class Batcher:
    """Decodes what waits together. A thread of its own does it, so that requests do not compete for the cores."""

    def __init__(self, chat: Any) -> None:
        self.chat, self.waiting = chat, queue.Queue[Waiting]()
        self.most = 1 if isinstance(chat.model, PeftModel) else TOGETHER  # a soft prompt would stand before the padding
        threading.Thread(target=self._work, daemon=True, name="decoding").start()

    def answer(self, ids: torch.Tensor, settings: Any) -> torch.Tensor:
        """The new tokens of one conversation, [length]."""
        mine = Waiting(ids, settings)
        self.waiting.put(mine)
        return mine.done.result()

    def _work(self) -> None:
        while True:
            batch = [self.waiting.get()]
            while len(batch) < self.most and not self.waiting.empty():
                batch.append(self.waiting.get())
            try:
                for each, tokens in zip(batch, self._decoded(batch), strict=True):
                    each.done.set_result(tokens)
            except BaseException as error:
                for each in batch:
                    each.done.set_exception(error)

    @torch.no_grad()
    def _decoded(self, batch: list[Waiting]) -> list[torch.Tensor]:
        """Prompts are padded on the left, where a decoder goes on to write, or on the right for an encoder."""
        chat, longest = self.chat, max(each.ids.shape[1] for each in batch)
        ids = torch.full((len(batch), longest), chat.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, each in enumerate(batch):
            place = slice(each.ids.shape[1]) if chat.answers_apart else slice(longest - each.ids.shape[1], None)
            ids[row, place], mask[row, place] = each.ids[0], 1
        rooms = [chat.room(each.ids, each.settings) for each in batch]
        start = 1 if chat.answers_apart else longest
        ends = Ends(chat.tokenizer, start, rooms, [each.settings.stop for each in batch])
        with chat.turn:
            out = chat.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=max(rooms), do_sample=False, eos_token_id=chat.ends,
                pad_token_id=chat.tokenizer.pad_token_id, stopping_criteria=StoppingCriteriaList([ends]),
                logits_processor=LogitsProcessorList([Draws([LogitsProcessorList(each.settings.draws(0)) for each in batch])]),
            )  # fmt: skip
        return [row[start : start + room] for row, room in zip(out, rooms, strict=True)]


class Draws(LogitsProcessor):
    """The parameters of each row by itself."""

    def __init__(self, rows: list[LogitsProcessorList]) -> None:
        self.rows = rows

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Logits [rows, vocabulary]."""
        drawn = [draws(input_ids[row : row + 1], scores[row : row + 1]).double() for row, draws in enumerate(self.rows)]
        return torch.cat(drawn)


class Ends(StoppingCriteria):
    """A row ends when it has all its tokens, or one of its stop texts."""

    def __init__(self, tokenizer: Any, start: int, rooms: list[int], stops: list[tuple[str, ...]]) -> None:
        self.tokenizer, self.start, self.rooms, self.stops = tokenizer, start, rooms, stops

    def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        """[rows] whether each has ended."""
        new = input_ids[:, self.start :]
        over = [new.shape[1] >= room or self._stopped(new[row], stops) for row, (room, stops) in enumerate(self._rows())]
        return torch.tensor(over, device=input_ids.device)

    def _rows(self) -> list[tuple[int, tuple[str, ...]]]:
        return list(zip(self.rooms, self.stops, strict=True))

    def _stopped(self, tokens: torch.Tensor, stops: tuple[str, ...]) -> bool:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True) if stops else ""
        return any(stop in text for stop in stops)


def app_of(model: Any, name: str) -> FastAPI:
    """MLflow's server of a loaded model, with OpenAI's addresses; `name` is what `/v1/models` calls it."""
    app, chat = scoring_server.init(model), model.unwrap_python_model()
    batcher, known = Batcher(chat), {each.name for each in model.metadata.signature.params.params}
    beside = type(chat).encoded.__globals__  # functions of the version's model file, which no import finds

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "posttrain"}]}

    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        try:
            asked = read(await request.body(), known)
            params = {each: value for each, value in asked.items() if each in known}
            settings = beside["settings_of"](params)
            ids = chat.encoded(beside["conversations"]({"messages": asked.get("messages")})[0])
            if asked.get("stream"):
                return StreamingResponse(streamed(chat, ids, settings, name), media_type="text/event-stream")
            tokens = await asyncio.to_thread(batcher.answer, ids, settings)
            return JSONResponse(_head("chat.completion", name) | completed(chat, ids, tokens, settings))
        except MlflowException as error:
            told = {"message": error.message, "type": "invalid_request_error"}
            return JSONResponse({"error": told}, error.get_http_status_code())

    return app


def read(body: bytes, known: set[str]) -> dict[str, Any]:
    """The request as a dictionary.

    Raises:
        MlflowException: in one sentence, when it is none, or asks for something that nothing here does.
    """
    try:
        asked = json.loads(body)
    except ValueError as error:
        raise MlflowException.invalid_parameter_value(f"the request is no JSON: {error}") from None
    if not isinstance(asked, dict):
        raise MlflowException.invalid_parameter_value(f"the request is a {type(asked).__name__}: allowed is an object")
    if unknown := sorted(set(asked) - known - IGNORED - {"messages"}):
        allowed = ", ".join(sorted(known | {"messages", "model", "stream", "user"}))
        raise MlflowException.invalid_parameter_value(f"unknown field {', '.join(unknown)}: known are {allowed}")
    if asked.get("n", 1) != 1:
        raise MlflowException.invalid_parameter_value(f"n is {asked['n']!r}: allowed is 1, ask again for another answer")
    return asked


def completed(chat: Any, ids: torch.Tensor, tokens: torch.Tensor, settings: Any) -> dict[str, Any]:
    """Choice and usage of the new tokens [length] of one conversation [1, length]."""
    ends = {chat.ends} if isinstance(chat.ends, int) else set(chat.ends or ())
    at = next((place for place, token in enumerate(tokens.tolist()) if token in ends), None)
    whole = str(chat.tokenizer.decode(tokens if at is None else tokens[:at], skip_special_tokens=True))
    answer = whole[: min((place for stop in settings.stop if (place := whole.find(stop)) >= 0), default=len(whole))]
    count = len(tokens) if at is None else at + 1
    why = "length" if at is None and answer == whole else "stop"
    choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": why}
    usage = {"prompt_tokens": ids.shape[1], "completion_tokens": count, "total_tokens": ids.shape[1] + count}
    return {"choices": [choice], "usage": usage}


def streamed(chat: Any, ids: torch.Tensor, settings: Any, name: str) -> Iterator[str]:
    """The same answer as server-sent events; the last one says why it ended."""
    head, ended = _head("chat.completion.chunk", name), list[torch.Tensor]()

    def event(delta: dict[str, str], why: str | None = None) -> str:
        return f"data: {json.dumps({**head, 'choices': [{'index': 0, 'delta': delta, 'finish_reason': why}]})}\n\n"

    def pieces() -> Iterator[str]:
        ended.append((yield from chat.pieces(ids, settings)))

    yield event({"role": "assistant", "content": ""})
    for piece in pieces():
        yield event({"content": piece})
    yield event({}, completed(chat, ids, ended[0], settings)["choices"][0]["finish_reason"])
    yield "data: [DONE]\n\n"


def _head(kind: str, name: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": name}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a registered chat model with OpenAI's interface.")
    parser.add_argument("model", help="models:/NAME@ALIAS, models:/NAME/VERSION, or a folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    uvicorn.run(app_of(mlflow.pyfunc.load_model(given.model), given.model), host=given.host, port=given.port)
