"""What rules out another form of the registered checkpoint before anything trains."""

from __future__ import annotations

from posttrain.peft.methods import METHODS
from posttrain.pipeline.chain import Chain
from schemas.model import ScratchModel
from schemas.recipe import STAGES


def check_export(chain: Chain) -> None:
    """Refuse `registry.export` where the file could not be written.

    Raises:
        Refusal: as `check_gguf_export`.
    """
    recipe, model = chain.recipe, chain.model
    if recipe.registry is None or "gguf" not in recipe.registry.export:
        return
    from posttrain.checkpoints.gguf_export import check_gguf_export
    from posttrain.checkpoints.load import load_config

    kind = model.architecture if isinstance(model, ScratchModel) else load_config(chain.source).model_type
    sections = (recipe.section(stage) for stage in recipe.stages if STAGES[stage].policy)
    methods = [section.peft.method for section in sections if hasattr(section, "peft")]
    stays = not isinstance(model, ScratchModel) and chain.source.adapters
    check_gguf_export(kind, not stays and all(METHODS[method].merges for method in methods))
