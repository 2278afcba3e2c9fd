"""What only the machine that trains can say, where another one than that has checked the rest of a recipe."""

from __future__ import annotations

from posttrain.pipeline.chain import Chain
from posttrain.pipeline.evaluation_check import check_here
from posttrain.pipeline.preflight import check_device, check_methods


def check_machine(chain: Chain) -> None:
    """Check the device, a quantisation that needs one, and what evaluation needs.

    Raises:
        Refusal: when this machine cannot do what the recipe asks for.
    """
    check_device(chain.recipe)
    check_here(chain.recipe)
    if chain.recipe.quantization is not None:
        check_methods(chain)
