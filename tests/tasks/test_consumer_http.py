"""A registered chat model behind MLflow's own server, over real HTTP: many at once, malformed requests, the signature."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import mlflow
import pytest
import torch
import uvicorn
from mlflow.pyfunc import scoring_server

from flows.server import free_port
from tests.tasks.served import LONGEST, Served, save_chat_model

ONE = [{"role": "user", "content": "Hello!"}]
TALK = [
    {"role": "system", "content": "Be brief."},
    *ONE,
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "And?"},
]


class Model(NamedTuple):
    server: Served
    model: mlflow.pyfunc.PyFuncModel

    def post(self, **payload) -> tuple[int, object]:
        return self.server.ask(**payload)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Model:
    model = mlflow.pyfunc.load_model(str(save_chat_model(tmp_path_factory.mktemp("served"))))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(scoring_server.init(model), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield Model(Served(f"http://127.0.0.1:{port}"), model)
    server.should_exit = True
    thread.join(timeout=20)


def test_chats_are_answered_alone_and_in_a_batch(served):
    status, [alone] = served.post(messages=ONE, max_tokens=4)
    assert status == 200
    assert alone
    status, batch = served.post(inputs=[ONE, TALK], params={"max_new_tokens": 4})
    assert status == 200, batch
    assert batch["predictions"][0] == alone
    assert served.post(inputs=[{"messages": ONE}], params={"max_new_tokens": 4}) == (200, {"predictions": [alone]})
    assert served.post(inputs=["Hello!"], params={"max_new_tokens": 4}) == (200, {"predictions": [alone]})
    assert served.model.predict(ONE, params={"max_tokens": 4}) == [alone]
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]}]
    assert served.post(messages=parts, max_tokens=4) == (200, [alone])


def test_requests_at_once_with_one_seed_get_one_answer(served):
    asked = {"messages": ONE, "temperature": 1.5, "max_tokens": 12}
    with ThreadPoolExecutor(8) as pool:
        same = list(pool.map(lambda _: served.post(**asked, seed=3), range(8)))
        other = list(pool.map(lambda seed: served.post(**asked, seed=seed), range(8)))
    assert {status for status, _ in [*same, *other]} == {200}
    assert len({answer for _, [answer] in same}) == 1
    assert len({answer for _, [answer] in other}) > 1


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({"messages": []}, "conversation 0"),
        ({"messages": "hello", "temperature": -1}, "temperature is -1"),
        ({"messages": ONE, "temperature": 1e-300}, "temperature is 1e-300"),
        ({"messages": [{"content": "no role"}]}, "message 0 has no role"),
        ({"messages": [{"role": "user"}]}, "has no text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "has no text"),
        ({"messages": ["hello"]}, "not str"),
        ({"messages": ONE, "max_tokens": 0}, "max_new_tokens is 0"),
        ({"messages": ONE, "top_p": 0.0}, "top_p is 0"),
        ({"messages": ONE, "stop": [""]}, "stop is"),
        ({"messages": ONE, "seed": -1}, "seed is -1"),
        ({"messages": ONE, "presence_penalty": 1}, "presence_penalty, which nothing reads"),
        ({"messages": [{"role": "user", "content": "Hello! " * LONGEST}]}, f"the model reads {LONGEST}"),
        ({"inputs": 7}, "type int"),
        ({"inputs": {"id": [1], "text": ["a"]}}, "has no role"),
        ({"inputs": [[{"role": "user", "content": "a"}], 7]}, "conversation 1"),
        ({"dataframe_records": [{"prompt": "a"}]}, "'inputs' key"),
        ({"messages": ONE, "max_tokens": "many"}, "max_tokens"),
    ],
)
def test_a_request_that_cannot_be_answered_gets_400_and_one_sentence(served, payload, told):
    status, answer = served.post(**payload)
    assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert told in answer["message"]
    assert "stack_trace" not in answer
    assert "Traceback" not in answer["message"]


def test_the_page_of_the_model_shows_what_it_takes_and_returns(served):
    signature = served.model.metadata.signature.to_dict()
    assert "messages" in signature["inputs"]
    assert json.loads(signature["outputs"])[0]["type"] == "string"
    defaults = {each["name"]: each["default"] for each in json.loads(signature["params"])}
    assert defaults == {"max_new_tokens": 128, "temperature": 0.0, "top_p": 1.0, "seed": 0, "stop": [], "max_tokens": None}
    example = served.model.input_example
    assert len(served.model.predict(example, params={"max_new_tokens": 2})) == 1


def test_a_stream_is_the_answer_in_pieces(served):
    """A piece ends where a word does, and some answers of random tokens have no blank."""
    counts = []
    for settings in ({"max_new_tokens": 12}, *({"max_new_tokens": 60, "temperature": 1.0, "seed": seed} for seed in range(6))):
        pieces = list(served.model.predict_stream({"messages": ONE}, params=settings))
        assert ["".join(pieces)] == served.model.predict(ONE, params=settings)
        counts.append(len(pieces))
    assert max(counts) > 1


def test_an_answer_ends_before_a_stop_text(served):
    [whole] = served.model.predict(ONE, params={"max_new_tokens": 12})
    stop = whole[3:5]
    cut = whole[: whole.find(stop)]
    assert served.model.predict(ONE, params={"max_new_tokens": 12, "stop": [stop]}) == [cut]
    assert "".join(served.model.predict_stream({"messages": ONE}, params={"max_new_tokens": 12, "stop": [stop]})) == cut


def test_a_sample_follows_the_softmax_at_its_temperature_and_top_p():
    """Frequencies of 4,000 draws of one token against the probabilities, within four standard errors."""
    from tasks.consumer import settings_of

    logits, draws, temperature = torch.tensor([[2.0, 1.0, 0.0, -3.0]]), 4000, 0.7
    wanted = (logits[0] / temperature).softmax(0)
    kept = wanted.clone()
    kept[2:] = 0  # the first two hold more than .9 of the mass
    for top_p, expected in ((1.0, wanted), (0.9, kept / kept.sum())):
        counts = torch.zeros(4)
        for seed in range(draws):
            scores = logits
            for processor in settings_of({"temperature": temperature, "top_p": top_p, "seed": seed}).draws(0):
                scores = processor(torch.zeros(1, 1, dtype=torch.long), scores)
            counts[int(scores.argmax())] += 1
        error = 4 * (expected * (1 - expected) / draws).sqrt() + 1e-9
        assert ((counts / draws - expected).abs() <= error).all()
