"""What a registered chat model takes and returns, as MLflow shows it in its pages and checks it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

EXAMPLE = {"messages": [{"role": "user", "content": "Hello!"}]}


def chat_signature() -> ModelSignature:
    """Messages in, text out, and the parameters of a request with their defaults.

    MLflow would read every input as a DataFrame with these columns, which loses all but the first message of a bare list. Marked
    as made from a type hint, the signature is shown, and the input reaches `predict` as it was sent.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array, Object, Property

    from tasks.consumer import Settings

    message = Object([Property("role", DataType.string), Property("content", AnyType())])  # a text, or parts of one
    types = {int: DataType.long, float: DataType.double}
    params = [ParamSpec(each.name, types[type(each.default)], each.default) for each in fields(Settings) if each.name != "stop"]
    params += [ParamSpec("stop", DataType.string, [], shape=(-1,)), ParamSpec("max_tokens", DataType.long, None)]
    signature = ModelSignature(
        inputs=Schema([ColSpec(Array(message), "messages")]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema(params),
    )
    signature._is_signature_from_type_hint = True
    return signature
