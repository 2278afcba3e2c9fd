"""A template that loops or grows is stopped, in any thread, and one that behaves costs nothing."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from posttrain.data import rendering
from posttrain.data.rendering import limited, rendered
from posttrain.data.tokenizer import some_chat
from schemas.errors import Refusal

CHAT = [{"role": "user", "content": "a"}]
ENDLESS = "{% set x = range(99999) | list %}" + "{% for a in x %}" * 4 + "{% endfor %}" * 4
SWALLOWS = "{% for a in range(99999) %}{% for b in range(99999) %}{{ a.no_such is defined }}{% endfor %}{% endfor %}"
GROWS = "{% set n = namespace(x='a' * 1000000) %}{% for a in range(99999) %}{% set n.x = n.x ~ 'a' * 20000000 %}{% endfor %}"


@pytest.fixture
def short_limits(monkeypatch):
    monkeypatch.setattr(rendering, "SECONDS", 0.5)
    monkeypatch.setattr(rendering, "GROWTH", 1 << 29)


@pytest.mark.parametrize("template", [ENDLESS, SWALLOWS])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_template_that_loops_is_refused_in_every_thread(tokenizer, short_limits, template, elsewhere):
    tokenizer.chat_template = template
    found: list[BaseException] = []

    def attempt() -> None:
        try:
            rendered(tokenizer, CHAT)
        except Refusal as refusal:
            found.append(refusal)

    started = time.monotonic()
    thread = threading.Thread(target=attempt)
    thread.start() if elsewhere else attempt()
    thread.join() if elsewhere else None
    assert time.monotonic() - started < 20
    assert [str(each).splitlines()[0] for each in found] == [
        "model.chat_template: found a chat template that renders one chat for over 0.5 seconds"
    ]


def test_a_template_that_grows_is_refused(tokenizer, short_limits, monkeypatch):
    monkeypatch.setattr(rendering, "SECONDS", 60)
    tokenizer.chat_template = GROWS
    with pytest.raises(Refusal, match=r"takes over 0.5 GiB"):
        rendered(tokenizer, CHAT)


def test_the_check_before_a_run_says_so_too(tokenizer, short_limits):
    tokenizer.chat_template = ENDLESS
    with pytest.raises(Refusal, match="renders one chat for over"):
        some_chat(tokenizer)


def test_what_a_template_raises_is_raised_and_leaves_no_watch(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(Exception, match="no"):
        rendered(tokenizer, CHAT)
    assert not rendering._watch.running


def test_a_rendering_that_ends_as_it_is_stopped_stops_nothing_later(short_limits):
    """For half a second work ends close to the limit; whether it was stopped or not, what follows goes on."""
    for _ in range(6):
        with contextlib.suppress(Refusal):
            limited(lambda: time.sleep(0.55) or "")
        assert sum(range(1000)) == 499_500
    assert limited(lambda: "fine") == "fine"
