"""Methods that train the model's own weights: all of them, or the last blocks and what follows them."""

from __future__ import annotations

from typing import Any

from torch import nn

from posttrain.models import blocks
from posttrain.peft.methods import Applied, Request


def full(model: Any, request: Request) -> Applied:
    """Every weight."""
    return Applied(model.requires_grad_(True))


def last_layers(model: Any, request: Request) -> Applied:
    """Train the last blocks, found by position rather than by name, and optionally the final norm and the head.

    A head that shares the input embedding's matrix gets a copy of its own first, so that the embedding stays as it is.

    Raises:
        Refusal: when the model has fewer blocks, or no head to train.
    """
    spec: Any = request.spec
    name, layers = _last_stack(model, request)
    if spec.layers > len(layers):
        raise request.refused(
            part="layers", found=str(spec.layers), allowed=f"at most {len(layers)}, the blocks of {name}", remedy="lower layers"
        )
    chosen = [*layers[-spec.layers :]]
    if spec.norm:
        chosen += _final_norm(model, name)
    delta: dict[str, Any] = {"config": {}}
    if spec.head:
        head = _head(model, request)
        delta["config"] = untie(model, head)
        chosen.append(head)
    model.requires_grad_(False)
    for module in chosen:
        for parameter_name, parameter in module.named_parameters():
            parameter.requires_grad_(not blocks.attached(parameter_name))
    return Applied(model, delta)


def untie(model: Any, head: Any) -> dict[str, Any]:
    """Give the head its own copy of the matrix that it shares with the input embedding; returns what changes in the config.

    transformers sets T5's flag by itself and reads it for another purpose when a T5 is loaded, so it stays there as it is: the
    head in the checkpoint is enough.
    """
    if head.weight is not model.get_input_embeddings().weight:
        return {}
    head.weight = nn.Parameter(head.weight.detach().clone())
    model.all_tied_weights_keys = {target: source for target, source in model.all_tied_weights_keys.items()
                                   if model.get_parameter(target) is model.get_parameter(source)}  # fmt: skip
    if model.config.is_encoder_decoder:
        return {}
    model.config.tie_word_embeddings = False
    return {"tie_word_embeddings": False}


def _last_stack(model: Any, request: Request) -> tuple[str, nn.ModuleList]:
    found = blocks.stacks(model)
    if not found:
        raise request.refused(
            part="method",
            found="last_layers, and this model has no list of blocks",
            allowed="a transformer",
            remedy="choose another",
        )
    return found[-1]


def _final_norm(model: Any, stack: str) -> list[nn.Module]:
    """The normalisation layer beside the list of blocks, after the last one; models that normalise in blocks have none."""
    parent = model.get_submodule(stack.rpartition(".")[0])
    norms = blocks.norms(model).values()
    beside = [child for name, child in parent.named_children() if child in norms and "embed" not in name]  # BART's first one
    return beside[-1:]


def _head(model: Any, request: Request) -> Any:
    head = model.get_output_embeddings()
    if head is None:
        raise request.refused(
            part="head",
            found="true, and this model has no output head",
            allowed="false",
            remedy=f"set {request.field}.head=false",
        )
    return head
