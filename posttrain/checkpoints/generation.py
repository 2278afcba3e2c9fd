"""How a registered model draws its answers by default: as it was evaluated."""

from __future__ import annotations

from pathlib import Path

from transformers import GenerationConfig

FILE = "generation_config.json"


def set_sampling(folder: Path, temperature: float) -> None:
    """Let a checkpoint draw from the policy that was evaluated: at its temperature, and from all tokens.

    transformers draws from the 50 most likely ones where a config does not say. The tokens that end an answer stay.
    """
    if not (folder / FILE).exists():
        return
    habits = GenerationConfig.from_pretrained(folder)
    habits.update(do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
    habits.save_pretrained(folder)
