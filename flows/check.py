"""What `posttrain check` finds out about a recipe before anything is paid for."""

from __future__ import annotations

from typing import Any

from posttrain.pipeline.preflight import preflight
from posttrain.runtime.garbage import importing
from posttrain.runtime.progress import working
from posttrain.runtime.store import Store
from schemas.recipe import Recipe
from tasks.chains import new_chain, pinned


def examine(recipe: Recipe, store: Store) -> dict[str, Any]:
    """Check recipe, data and model, and forecast what its stages will take; torch is imported when the model is looked at.

    Raises:
        Refusal: for the first thing that cannot work.
    """
    chain = new_chain(pinned(recipe, store.root), store)
    notices: list[str] = []
    with importing():  # of torch and transformers at the first look at the model, and of the forecasts
        with working("checking recipe and data"):
            counts = preflight(chain, notices.append)
        from posttrain.forecast.sizing import learning_rates_of, memory_of, size_of
        from posttrain.forecast.stage_times import times_of
        from posttrain.pipeline.lengths import first_rows
        from posttrain.runtime.device import bfloat16_hint, trains_elsewhere
        from posttrain.training.caution import of_recipe

    found: dict[str, Any] = {"recipe": recipe.name, "stages": list(recipe.stages), "data": counts, "model": size_of(chain.model)}
    if hint := bfloat16_hint(recipe.compute, found["model"]["parameters"]):
        notices.append(hint)
    rows = first_rows(chain)
    found["learning_rates"] = learning_rates_of(chain)
    with working("forecasting memory"):
        found["memory"] = memory_of(chain, rows, counts)
    if trains_elsewhere(recipe):
        notices.append("seconds are not forecast: they are measured on a device that trains, and there is no CUDA here")
    else:
        with working("measuring a few passes"):
            found["seconds"] = times_of(chain, rows, counts)
    return found | {"notices": notices, "warnings": list(of_recipe(recipe))}
