"""Which reward model is champion, on a real SQLite file; and every form in which its consumer takes an answered conversation."""

from __future__ import annotations

import pandas
import pytest
from mlflow.exceptions import MlflowException

from posttrain.pipeline.chain import Chain
from posttrain.runtime.store import Store
from schemas.recipe import Recipe
from tasks.champion import champion_of
from tasks.registry import client_of
from tasks.reward_consumer import answered
from tasks.reward_registry import promote_reward, register_reward


@pytest.fixture
def chain(root) -> Chain:
    """A chain whose recipe registers its reward model as `judge`; nothing has run."""
    (root.parent / "pairs.jsonl").write_text('{"prompt": "How was the soup?", "chosen": "Warm.", "rejected": "Cold."}\n')
    recipe = {
        "name": "house",
        "model": {"source": "local", "path": str(root.parent)},
        "data": {"preferences": str(root.parent / "pairs.jsonl")},
        "reward": {},
        "registry": {"model": "house", "reward_model": "judge"},
    }
    client_of(Chain(Recipe.model_validate(recipe), Store(root))).create_registered_model("judge")
    return Chain(Recipe.model_validate(recipe), Store(root))


def version(chain: Chain, accuracy: float | None):
    """A version that was right on this share of held-out pairs."""
    tags = {} if accuracy is None else {"held_out_accuracy": f"{accuracy:.6f}"}
    return client_of(chain).create_model_version("judge", chain.store.root.as_uri(), tags=tags)


def test_the_alias_goes_to_a_version_that_is_more_accurate(chain):
    """0.7 is the first; 0.7 again and 0.65 do not beat it; 0.75 does. One that was measured on nothing beats nothing."""
    found = [promote_reward(chain, version(chain, accuracy)) for accuracy in (0.7, 0.7, 0.65, 0.75, None)]
    assert found == ["champion", "challenger", "challenger", "champion", "challenger"]
    assert champion_of(client_of(chain), "judge").tags["held_out_accuracy"] == "0.750000"


@pytest.mark.parametrize("tag", ["nan", "inf", "evil", ""])
def test_a_champion_whose_tag_is_no_number_neither_stays_for_ever_nor_ends_the_run(chain, tag):
    promote_reward(chain, version(chain, 0.7))
    client_of(chain).set_model_version_tag("judge", "1", "held_out_accuracy", tag)
    assert promote_reward(chain, version(chain, 0.6)) == "champion"


def test_a_champion_that_is_seen_again_stays_one(chain):
    first = version(chain, 0.7)
    assert [promote_reward(chain, first) for _ in range(2)] == ["champion", "champion"]


def test_a_recipe_that_names_no_model_registers_none(chain):
    registry = chain.recipe.registry.model_copy(update={"reward_model": None})
    quiet = Chain(chain.recipe.model_copy(update={"registry": registry}), chain.store)
    assert register_reward(quiet, "no run") == {}


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
CHAT = [USER, ANSWER]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (CHAT, [CHAT]),
        ([CHAT, CHAT], [CHAT, CHAT]),
        (("a", "b"), [CHAT]),
        ([("a", "b"), ("a", "b")], [CHAT, CHAT]),
        ([["a", "b"], ["a", "b"]], [CHAT, CHAT]),
        (([USER, ANSWER, USER], "b"), [[USER, ANSWER, USER, ANSWER]]),
        ({"messages": CHAT}, [CHAT]),
        ([{"messages": CHAT}, {"prompt": "a", "response": "b"}], [CHAT, CHAT]),
        (pandas.DataFrame({"id": [1], "prompt": ["a"], "response": ["b"]}), [CHAT]),
        (pandas.DataFrame({"messages": [CHAT, CHAT]}), [CHAT, CHAT]),
        ([], []),
    ],
)
def test_every_form_of_an_answered_conversation_is_read(given, read):
    assert answered(given) == read


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (7, "type int"),
        ("a", "type str"),
        ([USER], "conversation 0 is not a question with an answer"),
        ([CHAT, [USER, USER]], "conversation 1 ends with a message of user"),
        ([[USER, {"role": "assistant"}]], "no text"),
        ({"prompt": "a"}, "conversation 0 has prompt"),
        (pandas.DataFrame({"prompt": ["a"]}), "response missing"),
        (pandas.DataFrame({"prompt": ["a"], "response": [None]}), "conversation 0"),
    ],
)
def test_what_is_no_answered_conversation_is_refused_in_one_sentence(given, told):
    with pytest.raises(MlflowException, match=told) as refused:
        answered(given)
    assert refused.value.get_http_status_code() == 400
    assert "allowed are messages that end with" in refused.value.message
