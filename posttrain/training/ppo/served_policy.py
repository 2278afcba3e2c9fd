"""The policy as a server has it: its LoRA is written out and loaded there before each time that it draws."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from posttrain.data.packing import Tokens
from posttrain.models.policy import Policy
from posttrain.peft.wrap import save_trained
from posttrain.sampling.sampler import Count, Sampling
from posttrain.sampling.served import Drawn, Server
from posttrain.scoring.scorer import inner_model
from posttrain.training.ppo.actor_critic import CRITIC, VALUE_HEAD
from schemas.peft import Peft
from schemas.ppo import PPO


@dataclass
class ServedPolicy:
    """A policy with a LoRA, and the server that draws from it."""

    server: Server
    folder: Path
    """Where LoRAs are written, which the server reads."""
    tokenizer: PreTrainedTokenizerBase
    peft: Peft
    start: Policy
    """What the LoRA is put on."""

    def draw(self, model: Any, prompts: Sequence[Tokens], plan: Sampling, on_rows: Count) -> list[tuple[Drawn, ...]]:
        """Responses of the policy as it is now.

        Raises:
            Refusal: when the server does not load the LoRA, or does not answer.
        """
        place = self.folder / uuid.uuid4().hex
        place.mkdir(parents=True)
        with _without_critic(inner_model(model)):
            save_trained(model, self.tokenizer, self.peft, self.start, place)
        try:
            self.server.load((place / "adapter").resolve())
            return self.server.draw(prompts, plan, on_rows)
        finally:
            shutil.rmtree(place)


def served_policy(spec: PPO, tokenizer: PreTrainedTokenizerBase, start: Policy) -> ServedPolicy | None:
    """The server of a recipe that has one draw."""
    if spec.sampler is None:
        return None
    return ServedPolicy(Server(spec.sampler), Path(spec.sampler.adapters).expanduser(), tokenizer, spec.peft, start)


@contextlib.contextmanager
def _without_critic(inner: Any) -> Iterator[None]:
    """Inside, a policy is without its value head and critic, which no server knows."""
    taken = {name: inner._modules.pop(name) for name in (VALUE_HEAD, CRITIC) if name in inner._modules}
    try:
        yield
    finally:
        inner._modules.update(taken)
