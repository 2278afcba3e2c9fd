"""Turns of the alias `champion`: of several processes that move it at once, each in a store of its own, one has each turn."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from tasks import turns

RACES = 100
# Two processes meet before each race, by a file of each, and then try to take the same turn.
RACER = """
import json, sys, time
from pathlib import Path
from mlflow import MlflowClient
from tasks import turns

# Versions 4 and 5 are those of the first race.
uri, folder, me, other, races = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
client, won = MlflowClient(uri), []
for race in range(races):
    (folder / f"{race}-{me}").touch()
    while not (folder / f"{race}-{other}").exists():
        time.sleep(0.0005)
    if turns.take(client, "house", race, str(race), str(4 + 2 * race + (me == "b")), "it is better"):
        won.append(race)
json.dump(won, sys.stdout)
"""


@pytest.fixture
def client(root) -> MlflowClient:
    client = MlflowClient(f"sqlite:///{root / 'tracking' / 'mlflow.db'}")
    client.create_registered_model("house")
    for _ in range(3):
        client.create_model_version("house", root.as_uri())
    return client


def champion(client: MlflowClient) -> str:
    return str(client.get_registered_model("house").aliases[turns.CHAMPION])


def test_a_turn_is_taken_once_and_its_version_is_champion(client):
    assert turns.settle(client, "house") == 0
    assert turns.take(client, "house", 0, "", "1", "the first")
    assert not turns.take(client, "house", 0, "", "2", "at the same moment")
    assert champion(client) == "1"
    assert turns.settle(client, "house") == 1
    assert turns.take(client, "house", 1, "1", "2", "better")
    assert [(turn.number, turn.before, turn.version, turn.why) for turn in turns.history(client, "house")] == [
        (1, "", "1", "the first"), (2, "1", "2", "better"),
    ]  # fmt: skip
    assert champion(client) == "2"


def test_models_with_similar_names_have_histories_of_their_own(client):
    client.create_registered_model("hou_e")
    assert turns.take(client, "house", 0, "", "1", "the first")
    assert turns.history(client, "hou_e") == []


def test_no_page_lists_the_turns(client):
    turns.take(client, "house", 0, "", "1", "the first")
    assert [each.name for each in client.search_experiments()] == ["Default"]


def test_a_move_whose_process_died_is_finished_by_the_next(client, monkeypatch):
    """Killed after it took the turn and before it set the alias."""

    def killed(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(turns, "_set_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            turns.take(client, "house", 0, "", "1", "the first")
    assert turns.CHAMPION not in client.get_registered_model("house").aliases
    assert turns.settle(client, "house") == 1
    assert champion(client) == "1"


def test_a_settled_move_does_not_undo_what_a_person_did_since(client):
    turns.take(client, "house", 0, "", "1", "the first")
    client.set_registered_model_alias("house", turns.CHAMPION, "3")
    assert turns.settle(client, "house") == 1
    assert champion(client) == "3"


@pytest.mark.slow
def test_of_two_processes_that_take_the_same_turn_one_has_it(client, root, tmp_path):
    uri = f"sqlite:///{root / 'tracking' / 'mlflow.db'}"
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    for race in range(RACES):
        for me in "ab":
            client.create_model_version("house", root.as_uri(), tags={"as": f"{race}-{me}"})
    command = [
        sys.executable,
        "-c",
        RACER.replace('f"{race}-{me}", "it', 'str(4 + 2 * race + (me == "b")), "it'),
        uri,
        str(meeting),
    ]
    racers = [
        subprocess.Popen([*command, me, other, str(RACES)], stdout=subprocess.PIPE, text=True) for me, other in ("ab", "ba")
    ]
    won = [set(json.loads(racer.communicate(timeout=500)[0])) for racer in racers]
    assert won[0] | won[1] == set(range(RACES))
    assert not won[0] & won[1]
    last = turns.history(client, "house")[-1]
    assert champion(client) == last.version == str(4 + 2 * (RACES - 1) + ((RACES - 1) in won[1]))


def test_a_user_without_a_name_is_known_by_number(client, monkeypatch):
    """As in a container that is run by any user id."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(turns, "getuser", nameless)
    monkeypatch.setattr(turns.os, "getuid", lambda: 12345)
    assert turns.take(client, "house", 0, "", "1", "the first")
    assert [turn.by for turn in turns.history(client, "house")] == ["uid 12345"]
