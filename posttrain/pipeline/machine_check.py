"""What only the machine that trains can say, where another one than that has checked the rest of a recipe."""

from __future__ import annotations

from posttrain.pipeline.benchmark_check import check_benchmarks
from posttrain.pipeline.chain import Chain
from posttrain.pipeline.preflight import check_device, check_methods
from posttrain.runtime.endpoint_address import check_endpoint
from schemas.judge import EndpointJudge


def check_machine(chain: Chain) -> None:
    """Check the device, a quantisation that needs one, and the address and key of an endpoint that judges.

    Raises:
        Refusal: when this machine cannot do what the recipe asks for.
    """
    check_device(chain.recipe)
    if isinstance(chain.recipe.evaluation.judge, EndpointJudge):
        check_endpoint(chain.recipe.evaluation.judge, "evaluation.judge")
    check_benchmarks(chain.recipe)
    if chain.recipe.quantization is not None:
        check_methods(chain)
