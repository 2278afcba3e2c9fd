"""The learning rate of a stage whose recipe names none: by what is trained, by the method, and by the size of the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from posttrain.peft.methods import METHODS
from schemas.peft import Peft
from schemas.training import Optimization

Spec = TypeVar("Spec", bound=Optimization)
Points = tuple[tuple[float, float], ...]

LARGEST = 1.0

# (parameters, rate), joined by lines in logarithms of both, flat beyond the ends. Models of up to 10M parameters are toys that
# this project trains itself: the rates of `quickstart.yaml` and of its sweeps.
_TOY = 1e7
ADAPTER: dict[str, Points] = {
    "sft": ((_TOY, 1e-3), (1e8, 2e-4), (1.3e10, 2e-4), (3.3e10, 1e-4)),
    "reward": ((_TOY, 1e-3), (1e8, 1e-4)),
    "dpo": ((_TOY, 5e-4), (1e8, 5e-5), (7e9, 5e-6)),
    "ppo": ((_TOY, 3e-4), (1e8, 3e-5), (7e9, 1e-5)),
}
FULL: dict[str, Points] = {
    "sft": ((_TOY, 1e-3), (1e8, 1e-4), (7e9, 2e-5)),
    "reward": ((_TOY, 1e-3), (1e8, 1e-5)),
    "dpo": ((_TOY, 5e-4), (1e8, 2e-6), (7e9, 5e-7)),
    "ppo": ((_TOY, 3e-4), (1e8, 3e-6), (7e9, 1e-6)),
}


def derived(stage: str, peft: Peft, parameters: int) -> float:
    """Peak learning rate for `sft`, `reward`, `dpo` or `ppo` of a model of so many parameters, to two digits.

    A method other than LoRA has its multiple of LoRA's rate in the table of methods.

    Sources: QLoRA (arXiv 2305.14314, appendix B.2): SFT with adapters 2e-4 up to 13B, 1e-4 above. The alignment handbook:
    Zephyr 7B, SFT in full 2e-5, DPO in full 5e-7, with LoRA 5e-6; SmolLM2 135M and 360M, DPO in full 1e-6, SFT in full 3e-4
    to 1e-3 on half a million conversations (here 1e-4 at 100M: most data sets are far smaller). TRL's reward modelling: 1e-5
    in full, 1e-4 with LoRA. "LoRA without regret" (Thinking Machines, 2025): LoRA's best rate is about 10 times that of full
    fine-tuning, at every size. LoRA at 100M for DPO, and PPO, are extrapolated by that, not taken from a publication.
    """
    own = METHODS[peft.method].of_base == "matrices"
    sizes, rates = zip(*(FULL if own else ADAPTER)[stage], strict=True)
    rate = math.exp(np.interp(math.log(parameters), np.log(sizes), np.log(rates)))
    return min(LARGEST, float(f"{rate * METHODS[peft.method].rate:.1e}"))


def settled(stage: str, spec: Spec, peft: Peft, parameters: Callable[[], int]) -> Spec:
    """The section with a learning rate: its own, else the derived one; `parameters` counts those of the model."""
    if spec.learning_rate is not None:
        return spec
    return spec.model_copy(update={"learning_rate": derived(stage, peft, parameters())})
