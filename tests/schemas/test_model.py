"""Fields of a model that do not go together, or are not for every model."""

from __future__ import annotations

import pytest

from schemas.errors import Refusal
from schemas.load import validate_recipe

LOCAL = {"source": "local", "path": "m"}


@pytest.mark.parametrize(
    ("model", "reward", "said"),
    [
        (
            {"source": "hub", "name": "a/b", "trust_remote_code": True, "resize_embeddings": True}, LOCAL,
            r"model\.resize_embeddings: found true with trust_remote_code",
        ),
        (LOCAL, LOCAL | {"resize_embeddings": True}, r"reward\.model\.resize_embeddings: found true"),
        (LOCAL, LOCAL | {"quantization": "int8"}, r"reward\.model\.quantization: found int8"),
    ],
)  # fmt: skip
def test_embeddings_are_added_to_the_policy_alone_and_to_what_can_be_saved(model, reward, said):
    document = {"name": "test", "model": model, "data": {"preferences": "p.jsonl"}, "reward": {"model": reward}}
    with pytest.raises(Refusal, match=said):
        validate_recipe(document, "test")


@pytest.mark.parametrize("field", [{"resize_embeddings": True}, {}])
def test_without_them_both_are_accepted(field):
    document = {"name": "test", "model": LOCAL | field, "data": {"preferences": "p.jsonl"}, "reward": {"model": LOCAL}}
    assert validate_recipe(document, "test").model.resize_embeddings == bool(field)
