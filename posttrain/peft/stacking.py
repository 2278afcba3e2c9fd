"""Which method may be trained above an adapter that could not be merged and stays in the model, frozen."""

from __future__ import annotations

from typing import Any

from posttrain.peft import blocks
from posttrain.peft.delta import Bottleneck
from posttrain.peft.methods import METHODS
from posttrain.peft.soft_prompts import soft_prompt
from schemas.errors import Refusal
from schemas.peft import Peft

OTHER = "unmerged"
STAYS = {"soft prompts": "a soft prompt", "adapters": "a bottleneck adapter", OTHER: "an adapter above another one"}


def refuse_stack(model: Any, spec: Peft, field: str) -> None:
    """Refuse a method that cannot be trained above what is in the model.

    Raises:
        Refusal: with the reason.
    """
    if problem := stack_problem(spec.method, families_in(model)):
        raise Refusal(f"{field}.method", *problem)


def families_in(model: Any) -> set[str]:
    """Families of the adapters that are in a model unmerged."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = list(blocks.core(model).modules())
    found = {"soft prompts"} if soft_prompt(model) is not None else set()
    found |= {"adapters"} if any(isinstance(module, Bottleneck) for module in modules) else set()
    return found | ({OTHER} if any(isinstance(module, BaseTunerLayer) for module in modules) else set())


def stack_problem(method: str, below: set[str]) -> tuple[str, str, str] | None:
    """What is found, what is allowed and what to do when `method` cannot be trained above adapters of these families; or None."""
    if not below:
        return None
    found = f"{method} above {' and '.join(STAYS[family] for family in sorted(below))}, which cannot be merged and stays there"
    if method == "full":
        return found, "a method that leaves the base as it is", "choose lora, or train the stage before with a method that merges"
    if OTHER in below:
        return found, "one adapter above another that stays", "train the stages before with methods that merge"
    if "soft prompts" in below and METHODS[method].family == "soft prompts":
        return found, "a method inside the layers", "choose lora or another method that is no soft prompt"
    return None
