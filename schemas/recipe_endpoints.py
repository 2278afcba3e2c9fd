"""Which endpoints a recipe asks, and where it names them."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.endpoint import Server
from schemas.ppo import PPO
from schemas.recipe import Recipe


def endpoints(recipe: Recipe) -> Iterator[tuple[str, Server]]:
    """Each with its field: the judge of evaluation, what rewards or watches PPO, and what draws for it."""
    if isinstance(recipe.evaluation.judge, Server):
        yield "evaluation.judge", recipe.evaluation.judge
    if isinstance(recipe.alignment, PPO):
        if recipe.alignment.sampler is not None:
            yield "alignment.sampler", recipe.alignment.sampler
        for field in ("reward", "monitor"):
            for source in getattr(recipe.alignment, field):
                if isinstance(source, Server):
                    yield f"alignment.{field}", source
