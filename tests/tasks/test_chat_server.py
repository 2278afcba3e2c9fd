"""The server that lies in every version: OpenAI's interface, many requests decoded together, one sentence for a bad one."""

from __future__ import annotations

import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import mlflow
import pytest

from flows.server import free_port
from tasks.registry import SERVER
from tests.tasks.served import LONGEST, Served, save_chat_model, serving

ONE = [{"role": "user", "content": "Hello!"}]
LONGER = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A short text. And?"}]
CHAT = "/v1/chat/completions"


class Chat(NamedTuple):
    server: Served
    model: mlflow.pyfunc.PyFuncModel

    def ask(self, **asked) -> tuple[int, dict]:
        return self.server.ask(CHAT, **asked)

    def say(self, **asked) -> str:
        status, answer = self.ask(**asked)
        assert status == 200, answer
        return answer["choices"][0]["message"]["content"]

    def stream(self, **asked) -> list[dict]:
        """The chunks of a streamed answer."""
        body = json.dumps({**asked, "stream": True}).encode()
        request = urllib.request.Request(self.server.address + CHAT, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            lines = [line.decode().strip() for line in answer if line.strip()]
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Chat:
    """The file of a saved model as a person starts it: in a process of its own, in which this project cannot be imported."""
    folder = tmp_path_factory.mktemp("served")
    saved, port = save_chat_model(folder), free_port()
    command = [sys.executable, "-I", saved / "artifacts" / SERVER.name, saved, "--port", port]
    with serving(command, port, folder) as server:
        yield Chat(server, mlflow.pyfunc.load_model(str(saved)))


def test_a_completion_has_the_form_of_openai_and_says_what_the_model_says(served):
    status, answer = served.ask(model="any", messages=ONE, max_tokens=5)
    assert status == 200
    [expected] = served.model.predict(ONE, params={"max_new_tokens": 5})
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected}
    assert (answer["object"], choice["index"]) == ("chat.completion", 0)
    prompt = served.model.unwrap_python_model().encoded(ONE).shape[1]
    assert answer["usage"]["prompt_tokens"] == prompt
    assert answer["usage"]["total_tokens"] == prompt + answer["usage"]["completion_tokens"]
    assert (choice["finish_reason"] == "length") == (answer["usage"]["completion_tokens"] == 5)


def test_eight_at_once_say_what_each_says_alone(served):
    """Of other lengths, parameters and seeds; greedy and drawn."""
    asked = [
        {"messages": messages, "max_tokens": tokens, "temperature": temperature, "seed": seed}
        for messages, tokens, temperature, seed in [
            (ONE, 3, 0, 0), (LONGER, 12, 0, 0), (ONE, 9, 1.0, 1), (ONE, 9, 1.0, 2),
            (LONGER, 5, 1.5, 3), (ONE, 9, 1.0, 1), (LONGER, 1, 0, 0), (ONE, 12, 0.7, 9),
        ]
    ]  # fmt: skip
    alone = [served.model.predict(each.pop("messages"), params=each)[0] for each in map(dict, asked)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(lambda each: served.say(**each), asked)) == alone
    assert len(set(alone)) > 4


def test_a_stop_text_ends_one_answer_of_several(served):
    whole = served.say(messages=ONE, max_tokens=12)
    stop = whole[3:5]
    with ThreadPoolExecutor(2) as pool:
        cut, other = pool.map(lambda more: served.say(messages=ONE, max_tokens=12, **more), [{"stop": [stop]}, {}])
    assert (cut, other) == (whole[: whole.find(stop)], whole)
    assert served.ask(messages=ONE, max_tokens=12, stop=[stop])[1]["choices"][0]["finish_reason"] == "stop"


def test_a_stream_is_the_same_answer_in_events_and_says_why_it_ended(served):
    """Cut by `max_tokens`, ended by a stop text, and ended by the model."""
    whole = served.say(messages=ONE, max_tokens=12)
    ended = next(
        seed for seed in range(200) if _why(served.ask(messages=ONE, max_tokens=60, temperature=1.5, seed=seed)[1]) == "stop"
    )
    cases = [{"max_tokens": 12}, {"max_tokens": 12, "stop": [whole[3:5]]}, {"max_tokens": 60, "temperature": 1.5, "seed": ended}]
    for more, why in zip(cases, ("length", "stop", "stop"), strict=True):
        chunks = served.stream(messages=ONE, **more)
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        status, answer = served.ask(messages=ONE, **more)
        assert (said, status) == (answer["choices"][0]["message"]["content"], 200)
        assert (_why(chunks[-1]), _why(answer)) == (why, why)
        assert {_why(chunk) for chunk in chunks[:-1]} == {None}


def _why(answer: dict) -> str | None:
    return answer["choices"][0]["finish_reason"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"body": b"{"}, "no JSON"),
        ({"body": b"[]"}, "a list"),
        ({}, "conversation 0"),
        ({"messages": []}, "conversation 0"),
        ({"messages": [{"content": "x"}]}, "no role"),
        ({"messages": ONE, "temperature": -1}, "temperature is -1"),
        ({"messages": ONE, "max_tokens": "many"}, "max_new_tokens is 'many'"),
        ({"messages": ONE, "n": 2}, "n is 2"),
        ({"messages": ONE, "tools": []}, "unknown field tools"),
        ({"messages": [{"role": "user", "content": "Hello! " * LONGEST}]}, f"the model reads {LONGEST}"),
    ],
)
def test_a_request_that_cannot_be_answered_gets_400_and_one_sentence(served, asked, told):
    status, answer = served.ask(**asked)
    assert status == 400, answer
    assert answer["error"]["type"] == "invalid_request_error"
    assert told in answer["error"]["message"]
    assert "Traceback" not in answer["error"]["message"]


def test_the_addresses_of_mlflow_stay(served):
    assert served.server.ask(messages=ONE, max_tokens=3)[0] == 200
    with urllib.request.urlopen(f"{served.server.address}/v1/models", timeout=60) as answer:
        assert json.loads(answer.read())["data"][0]["object"] == "model"
