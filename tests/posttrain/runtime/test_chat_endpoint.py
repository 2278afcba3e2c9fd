"""The client of an OpenAI-compatible endpoint, against a real server that fails, lags, leads away, floods and echoes."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time

import pytest

from posttrain.runtime import chat_endpoint
from posttrain.runtime.chat_endpoint import BUDGET, GIVE_UP, ChatEndpoint
from posttrain.runtime.endpoint_address import opened_url
from schemas.endpoint import Endpoint
from schemas.errors import Refusal


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(chat_endpoint, "FIRST_PAUSE", 0.001)


def spec(url: str, **more) -> Endpoint:
    return Endpoint.model_validate({"url": url, "model": "judge-1", "allow_http": True, **more})


def ask(served, count: int = 1, cache=None, **more):
    """Ask `count` different questions; the replies and the counts."""
    endpoint = ChatEndpoint(spec(served.url, **more), "evaluation.judge", cache)
    return endpoint.ask([[{"role": "user", "content": f"question {n}"}] for n in range(count)]), endpoint.counts


def last_words(body, before):
    return body["messages"][-1]["content"].upper()


def test_answers_are_in_the_order_of_the_questions_and_equal_ones_are_asked_once(chat_server):
    served = chat_server(lambda body, before: (time.sleep(0.02 * (before % 3)), last_words(body, before))[1])
    endpoint, told = ChatEndpoint(spec(served.url), "f"), []
    replies = endpoint.ask([[{"role": "user", "content": text}] for text in "abcab"], told.append)
    assert [reply.text for reply in replies] == ["A", "B", "C", "A", "B"]
    assert len(served.requests) == endpoint.counts["calls"] == 3
    assert told == sorted(told)
    assert {"model": "judge-1", "temperature": 0, "max_tokens": 512}.items() <= served.requests[0].items()


def test_what_fails_and_may_pass_is_asked_again(chat_server):
    """A server error, too many requests, a connection that breaks, and no JSON; the fifth request is answered."""

    def broken(handler):
        handler.close_connection = True

    failures = [(503, "busy"), (429, "slow down"), broken, (200, "<html>"), "fine"]
    served = chat_server(lambda body, before: failures[before])
    (reply,), counts = ask(served, retries=4)
    assert (reply.text, counts["calls"], counts["failed"]) == ("fine", 5, 0)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((500, "kaput"), "status 500: kaput"),
        ((200, json.dumps({"choices": []})), "no chat completion"),
        ((200, json.dumps({"choices": [{"message": {"content": None}}]})), "no chat completion"),
        ((200, "[" * 100_000), "no chat completion"),
    ],
)
def test_a_question_that_keeps_failing_is_counted_with_its_reason(chat_server, answer, words):
    served = chat_server(lambda body, before: answer)
    (reply,), counts = ask(served, retries=2)
    assert reply.text is None
    assert words in reply.failure
    assert (len(served.requests), counts["failed"]) == (3, 1)


def test_what_is_wrong_with_one_question_is_not_asked_again(chat_server):
    served = chat_server(lambda body, before: (400, "too long"))
    (reply,), _ = ask(served)
    assert reply.failure == "status 400: too long"
    assert len(served.requests) == 1


def test_a_server_that_lags_or_drips_is_left_in_time(chat_server):
    """A byte every 20 ms would keep each single read in time for ever."""
    stop = threading.Event()

    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        while not stop.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    served = chat_server(lambda body, before: drip)
    try:
        (reply,), _ = ask(served, timeout_seconds=0.2, retries=0)
    finally:
        stop.set()
    assert reply.failure == "no answer in 0.2 s"


def test_a_flood_and_a_bomb_are_not_read(chat_server):
    """More than 1 MiB, and a compressed answer, which may be any length when it is unpacked."""

    def bomb(handler):
        handler.send(200, "x", content_encoding="gzip")

    def flood(handler):
        handler.send(200, " " * (chat_endpoint.LARGEST + 1))

    served = chat_server(lambda body, before: flood if before == 0 else bomb)
    first, second = ask(served, 2, concurrency=1)[0]
    assert "more than 1,048,576 bytes" in first.failure
    assert "compressed" in second.failure
    assert len(served.requests) == 2


def test_a_redirect_is_not_followed(chat_server):
    elsewhere = chat_server(last_words)
    served = chat_server(lambda body, before: lambda handler: handler.send(307, "", location=f"{elsewhere.url}/chat/completions"))
    with pytest.raises(Refusal, match="a redirect to http://127") as refused:
        ask(served)
    assert refused.value.where == "evaluation.judge.url"
    assert (len(served.requests), elsewhere.requests) == (1, [])


@pytest.mark.parametrize(("status", "check"), [(401, "its key"), (403, "its key"), (404, "the name of the model")])
def test_a_server_that_answers_nobody_like_us_ends_it_at_once(chat_server, status, check):
    served = chat_server(lambda body, before: (status, "no"))
    with pytest.raises(Refusal, match=f"status {status}: no") as refused:
        ask(served, 50, concurrency=1)
    assert check in refused.value.remedy
    assert len(served.requests) == 1


def test_no_more_requests_are_sent_than_allowed(chat_server):
    """Seven calls: the first question takes two of them, the next five one each, and two are left."""
    served = chat_server(lambda body, before: (500, "") if before == 0 else "yes")
    replies, counts = ask(served, 8, max_calls=7, concurrency=1)
    assert [reply.text for reply in replies] == ["yes"] * 6 + [None] * 2
    assert [reply.failure for reply in replies[6:]] == [BUDGET] * 2
    assert (len(served.requests), counts["budget"], counts["failed"]) == (7, 2, 0)


def test_half_a_surrogate_pair_is_asked_about_like_any_text(chat_server, tmp_path):
    served = chat_server(lambda body, before: "fine")
    endpoint = ChatEndpoint(spec(served.url), "f", tmp_path)
    assert endpoint.ask([[{"role": "user", "content": "half \ud83d"}]])[0].text == "fine"


def test_a_server_that_is_gone_is_soon_left_alone(chat_server):
    served = chat_server(lambda body, before: (500, ""))
    replies, counts = ask(served, 100, retries=0, concurrency=1)
    assert len(served.requests) == GIVE_UP
    assert counts["failed"] == 100
    assert "failed 16 times in a row" in replies[-1].failure


def test_answers_are_kept_by_what_decides_them_and_taken_from_there(chat_server, tmp_path):
    served = chat_server(last_words)
    first, _ = ask(served, 3, tmp_path)
    again, counts = ask(served, 3, tmp_path)
    assert again == first
    assert (len(served.requests), counts["calls"], counts["cached"]) == (3, 0, 3)
    ask(served, 3, tmp_path, max_tokens=8)
    assert len(served.requests) == 6


def test_an_answer_that_is_not_worth_keeping_is_asked_for_again(chat_server, tmp_path):
    served = chat_server(lambda body, before: "garbage" if before == 0 else "fine")
    for expected in ("garbage", "fine", "fine"):
        endpoint = ChatEndpoint(spec(served.url), "f", tmp_path)
        assert endpoint.ask([[{"role": "user", "content": "?"}]], keep=lambda text: text == "fine")[0].text == expected
    assert len(served.requests) == 2


@pytest.mark.parametrize("planted", ["{", '"text"', '{"question": "another", "answer": "planted"}', '{"answer": 3}'])
def test_a_damaged_or_planted_answer_is_asked_for_again(chat_server, tmp_path, planted):
    served = chat_server(last_words)
    ask(served, 1, tmp_path)
    (kept,) = tmp_path.glob("*/*.json")
    kept.write_text(planted)
    (reply,), _ = ask(served, 1, tmp_path)
    assert reply.text == "QUESTION 0"
    kept.unlink()
    kept.symlink_to(tmp_path / "elsewhere")
    assert ask(served, 1, tmp_path)[0][0].text == "QUESTION 0"
    assert not (tmp_path / "elsewhere").exists()


def test_the_key_is_sent_and_stands_nowhere_else(chat_server, tmp_path, monkeypatch, caplog):
    """Not even where the server says it back, in an answer or in an error."""
    monkeypatch.setenv("HOUSE_JUDGE", "correct-horse-battery")
    caplog.set_level(logging.DEBUG)

    def echo(body, before):
        return lambda handler: handler.send(*((200, completion) if before == 0 else (400, handler.headers["authorization"])))

    completion = json.dumps({"choices": [{"message": {"content": "your key is correct-horse-battery"}}]})
    served = chat_server(echo)
    replies, _ = ask(served, 2, tmp_path, key="${HOUSE_JUDGE}", concurrency=1)
    assert [headers["Authorization"] for headers in served.headers] == ["Bearer correct-horse-battery"] * 2
    assert [replies[0].text, replies[1].failure] == ["your key is ***", "status 400: Bearer ***"]
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "your key is ***" in kept
    assert "correct-horse" not in kept
    assert "correct-horse" not in caplog.text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"key": "${NO_SUCH_VARIABLE_HERE}"}, "NO_SUCH_VARIABLE_HERE is not set"),
        ({"key": "block://judge"}, "block://judge, which was not read"),
        ({"key": "${WITH_LINE_FEED}"}, "a line feed"),
        ({"url": "http://example.invalid/v1"}, "http to example.invalid"),
        ({"url": "http://8.8.8.8/v1"}, r"http to 8.8.8.8 \(8.8.8.8\)"),
        ({"url": "http://169.254.169.254/v1"}, "http to 169.254.169.254"),
        ({"url": "https://xn--a.example/v1"}, "xn--a.example"),
        ({"url": "https://\u00e4\u2060..example/v1"}, "example"),
        ({"url": "${ADDRESS_WITH_USER}"}, "without user"),
        ({"url": "${ADDRESS_WITHOUT_TLS}", "allow_http": False}, "ADDRESS_WITHOUT_TLS}, which stands for"),
    ],
)
def test_an_endpoint_that_may_not_be_asked_is_refused(given, words, monkeypatch):
    monkeypatch.setenv("WITH_LINE_FEED", "abcdef\n")
    monkeypatch.setenv("ADDRESS_WITH_USER", "https://host:pass@example.com/v1")
    monkeypatch.setenv("ADDRESS_WITHOUT_TLS", "http://127.0.0.1:1/v1")
    with pytest.raises(Refusal, match=words):
        ChatEndpoint(Endpoint.model_validate({"url": "http://127.0.0.1:1", "model": "m", "allow_http": True, **given}), "f")


@pytest.mark.parametrize(
    "url", ["http://localhost:8000/v1/", "http://10.1.2.3/v1", "http://[::1]:80/v1", "https://api.example.com/v1"]
)
def test_addresses_of_this_machine_and_of_private_networks_and_tls_are_asked(url):
    assert opened_url(spec(url), "f") == url.rstrip("/")


def test_an_interruption_ends_the_wait_for_answers(chat_server, monkeypatch):
    """Ctrl-C reaches the thread that waits, not the one that asks: no more is asked, and no connection stays open."""
    stop = threading.Event()
    served = chat_server(lambda body, before: (stop.wait(5), "late")[1])

    def interrupted(done):
        if done == 0:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()  # which the main thread gets

    endpoint = ChatEndpoint(spec(served.url, concurrency=2), "f")
    with pytest.raises(KeyboardInterrupt):
        endpoint.ask([[{"role": "user", "content": str(n)}] for n in range(20)], interrupted)
    stop.set()
    assert len(served.requests) == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("chat-endpoint")]
