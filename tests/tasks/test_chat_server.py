"""The server that lies in every version: OpenAI's interface, many requests decoded together, one sentence for a bad one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import mlflow
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.data.chat_templates import BUILT_IN
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from tasks.registry import SERVER, consumer_of

ONE = [{"role": "user", "content": "Hello!"}]
LONGER = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A short text. And?"}]
LONGEST = 256


class Served(NamedTuple):
    address: str
    model: mlflow.pyfunc.PyFuncModel

    def ask(self, path: str = "/v1/chat/completions", body: bytes | None = None, **asked) -> tuple[int, dict]:
        """Status and decoded answer of one request."""
        sent = body if body is not None else json.dumps(asked).encode()
        request = urllib.request.Request(self.address + path, sent, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def say(self, **asked) -> str:
        status, answer = self.ask(**asked)
        assert status == 200, answer
        return answer["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Served:
    """The file of a saved model as a person starts it: in a process of its own, in which this project cannot be imported."""
    folder = tmp_path_factory.mktemp("served")
    tokenizer = prepare_tokenizer(train_tokenizer(["A short text.", "Hello! Be brief. Hi. And?"] * 9, 280), BUILT_IN["chatml"])
    tokenizer.save_pretrained(folder / "checkpoint")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=LONGEST, eos_token_id=tokenizer.eos_token_id, **shape)
    model = LlamaForCausalLM(config)
    for parameter in (p for p in model.parameters() if p.dim() > 1):  # a new model repeats itself
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder / "checkpoint")
    saved = folder / "saved"
    mlflow.pyfunc.save_model(saved, **consumer_of(folder, {"checkpoint": "checkpoint"}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON"))}
    command = [sys.executable, "-I", str(saved / "artifacts" / SERVER.name), str(saved), "--port", str(port)]
    process = subprocess.Popen(command, cwd=folder, env=clean | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    served = Served(f"http://127.0.0.1:{port}", mlflow.pyfunc.load_model(str(saved)))
    try:
        _wait(served, process)
        yield served
    finally:
        process.kill()
        process.wait()


def _wait(served: Served, process: subprocess.Popen) -> None:
    for _ in range(1200):
        assert process.poll() is None
        try:
            urllib.request.urlopen(f"{served.address}/ping", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not start")


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


def test_a_stream_is_the_same_answer_in_events(served):
    body = json.dumps({"messages": ONE, "max_tokens": 12, "stream": True}).encode()
    request = urllib.request.Request(f"{served.address}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        lines = [line.decode().strip() for line in answer if line.strip()]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert said == served.say(messages=ONE, max_tokens=12)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


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
    assert served.ask("/invocations", messages=ONE, max_tokens=3)[0] == 200
    with urllib.request.urlopen(f"{served.address}/v1/models", timeout=60) as answer:
        assert json.loads(answer.read())["data"][0]["object"] == "model"
