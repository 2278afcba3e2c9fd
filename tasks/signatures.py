"""What registered models take and return, as MLflow shows it in its pages."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema

EXAMPLE = {"messages": [{"role": "user", "content": "Hello!"}]}
FEW = {"max_new_tokens": 8}  # of the example's answer: MLflow has each version answer it, and a large model is slow here
ANSWERED = {"messages": [*EXAMPLE["messages"], {"role": "assistant", "content": "Hi."}]}


def chat_signature() -> ModelSignature:
    """Messages in, text out, and the parameters of a request with their defaults."""
    from mlflow.types import DataType, ParamSchema, ParamSpec

    from tasks.consumer import Settings

    types = {int: DataType.long, float: DataType.double}
    params = [ParamSpec(each.name, types[type(each.default)], each.default) for each in fields(Settings) if each.name != "stop"]
    params += [ParamSpec("stop", DataType.string, [], shape=(-1,)), ParamSpec("max_tokens", DataType.long, None)]
    return _of_messages(DataType.string, ParamSchema(params))


def reward_signature() -> ModelSignature:
    """Messages that end with an answer in, its reward out."""
    from mlflow.types import DataType

    return _of_messages(DataType.double)


def _of_messages(output: DataType, params: ParamSchema | None = None) -> ModelSignature:
    """MLflow would read every input as a DataFrame with these columns, which loses all but the first message of a bare list.

    Marked as made from a type hint, the signature is shown, and the input reaches `predict` as it was sent.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array, Object, Property

    message = Object([Property("role", DataType.string), Property("content", AnyType())])  # a text, or parts of one
    inputs, outputs = Schema([ColSpec(Array(message), "messages")]), Schema([ColSpec(output)])
    signature = ModelSignature(inputs=inputs, outputs=outputs, **({"params": params} if params else {}))
    signature._is_signature_from_type_hint = True
    return signature
