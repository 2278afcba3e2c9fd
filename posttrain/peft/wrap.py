"""The one place that wraps a model for training, and that saves what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from posttrain.peft.methods import METHODS
from posttrain.policy import Policy
from schemas.errors import Refusal
from schemas.training import Peft


def wrap(model: nn.Module, spec: Peft, seed: int, field: str) -> nn.Module:
    """The model with the method's parameters trainable and all others frozen; the seed fixes new weights.

    Raises:
        Refusal: when the method finds nothing to train in this model; `field` names the recipe's section.
    """
    torch.manual_seed(seed)
    try:
        wrapped = METHODS[spec.method](model, spec)
    except ValueError as error:  # peft: no layer has one of the names
        raise Refusal(
            f"{field}.target_modules", str(error).splitlines()[0], "names of linear layers", "use all-linear"
        ) from error
    if not any(p.requires_grad for p in wrapped.parameters()):
        raise Refusal(
            f"{field}.method", f"{spec.method}, which selects no parameter here", "a method that trains some", "choose another"
        )
    return wrapped


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """References to the trainable tensors by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def load_trainable(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy tensors into the trainable parameters.

    Raises:
        ValueError: when a name is missing or unexpected.
    """
    own = trainable_state(model)
    if own.keys() != state.keys():
        raise ValueError(
            f"trainable tensors differ: missing {sorted(own.keys() - state)}, unexpected {sorted(state.keys() - own)}"
        )
    for name, parameter in own.items():
        parameter.copy_(state[name])


def save_trained(model: Any, tokenizer: PreTrainedTokenizerBase, spec: Peft, start: Policy, out: Path) -> dict[str, str]:
    """Write what was trained in the ecosystem's format; returns the stage's outputs (`model`, or `adapter`).

    The adapter's config names its base where that is a plain hub model. A folder, or a base with merged adapters, is not named:
    adapters outlive the folder of the moment, and a wrong base would be loaded without an error.
    """
    if spec.method == "full":
        model.save_pretrained(out / "model")
        tokenizer.save_pretrained(out / "model")
        return {"model": "model"}
    config = model.peft_config["default"]
    on_hub = not start.adapters and not Path(start.base).is_dir()
    config.base_model_name_or_path, config.revision = (start.base, start.revision) if on_hub else ("", None)
    if isinstance(config.target_modules, set):  # written in another order by each process, which would change the digest
        config.target_modules = sorted(config.target_modules)
    model.save_pretrained(out / "adapter")
    (out / "adapter" / "README.md").unlink(missing_ok=True)  # names the folder of the moment; equal adapters must be equal files
    return {"adapter": "adapter"}
