"""What the model card of a version says beside the recipe, from the results of its run."""

from __future__ import annotations

from posttrain.models.licence import base_licence
from posttrain.pipeline.chain import Chain
from posttrain.report.model_card import Facts
from posttrain.runtime.provenance import environment
from posttrain.training import caution
from schemas.model import HubModel, RegistryModel, ScratchModel
from schemas.results import GateReport

DATA_STAGES = ("validate", "filter")


def facts_of(chain: Chain, gates: tuple[GateReport, ...]) -> Facts:
    """The facts of a run whose stages before registration are finished."""
    from posttrain.pipeline.template_check import template_in_use

    recipe, stages = chain.recipe, chain.recipe.stages
    results = {stage: chain.stored(stage).result for stage in stages if stage != "register"}
    model = recipe.model
    warnings = [said for stage, result in results.items() for said in caution.of_stage(stage, result.metrics)]
    return Facts(
        base=_described(chain),
        hub_name=model.name if isinstance(model, HubModel) else None,
        licence=None if isinstance(model, ScratchModel | RegistryModel) else base_licence(chain.source),
        data=tuple(chain.source_origin(name) for name in chain.sources),
        rows={stage: results[stage].metrics for stage in DATA_STAGES if stage in results},
        template=template_in_use(chain).report,
        metrics=chain.measured(),
        gates=gates,
        warnings=(*caution.of_recipe(recipe), *warnings),
        environment=environment(),
    )


def _described(chain: Chain) -> str:
    model = chain.recipe.model
    if isinstance(model, ScratchModel):
        return f"A new {model.architecture} of {model.layers} layers and width {model.hidden_size}"
    named = next(str(getattr(model, field)) for field in ("name", "path", "uri") if hasattr(model, field))
    return f"The model {named.rpartition('/')[2] if model.source in ('local', 'gguf') else named}"
