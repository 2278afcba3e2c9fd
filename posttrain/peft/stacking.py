"""Which methods can be trained above a frozen adapter that could not be merged."""

from __future__ import annotations

from typing import Any

from posttrain.models import blocks
from posttrain.peft.delta import Bottleneck
from posttrain.peft.hf_peft import MUTATING
from posttrain.peft.methods import METHODS
from posttrain.peft.soft_prompts import has_soft_prompt
from schemas.errors import Refusal
from schemas.peft import LoRA, Peft

OTHER = "unmerged"
STAYS = {"soft prompts": "a soft prompt", "adapters": "a bottleneck adapter", OTHER: "an adapter above another one"}


def refuse_stack(model: Any, spec: Peft, field: str) -> None:
    """Refuse a method that cannot be trained above the model's adapters.

    Raises:
        Refusal: with the reason.
    """
    if refusal := stack_problem(spec, families_in(model), field):
        raise refusal


def families_in(model: Any) -> set[str]:
    """Families of the model's unmerged adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = list(blocks.core(model).modules())
    found = {"soft prompts"} if has_soft_prompt(model) else set()
    found |= {"adapters"} if any(isinstance(module, Bottleneck) for module in modules) else set()
    return found | ({OTHER} if any(isinstance(module, BaseTunerLayer) for module in modules) else set())


def stack_problem(spec: Peft, below: set[str], field: str) -> Refusal | None:
    """The refusal of a method that cannot be trained above adapters of these families; or None."""
    problem = _method_problem(spec.method, below)
    stay = f"above {' and '.join(STAYS[family] for family in sorted(below))}, which cannot be merged and stays there"
    if problem:
        return Refusal(where=f"{field}.method", found=f"{spec.method} {stay}", allowed=problem[0], remedy=problem[1])
    if "adapters" in below and isinstance(spec, LoRA) and spec.init in MUTATING:
        # These inits move part of the weight behind the adapter at the layer's output, which changes the function.
        return Refusal(
            where=f"{field}.init",
            found=f"{spec.init} {stay}",
            allowed="default, gaussian, orthogonal",
            remedy="choose another init",
        )
    return None


def _method_problem(method: str, below: set[str]) -> tuple[str, str] | None:
    """What is allowed, and what to do."""
    if below and method == "full":
        return "a method that leaves the base as it is", "choose lora, or train the stage before with a method that merges"
    if OTHER in below:
        return "one adapter above another that stays", "train the stages before with methods that merge"
    if "soft prompts" in below and METHODS[method].family == "soft prompts":
        return "a method inside the layers", "choose lora or another method that is no soft prompt"
    return None
