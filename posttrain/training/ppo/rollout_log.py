"""Responses over the course of PPO: the best, the middle and the worst of each iteration, as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from posttrain.rewards.sources import Answered

ROLLOUTS = "rollouts.jsonl"


class SampleLog:
    """A log on disk; an iteration that is repeated after a resume replaces its lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, iteration: int, answered: Answered, rewards: Tensor) -> None:
        """Append the best, the middle and the worst response of an iteration."""
        lines = self.path.read_text("utf-8").split("\n") if self.path.exists() else []  # a text may hold other line separators
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["iteration"] < iteration]
        order = rewards.argsort(descending=True).tolist()
        for rank, index in {"best": order[0], "middle": order[len(order) // 2], "worst": order[-1]}.items():
            prompt = str(answered.conversations[index][-1]["content"])
            row = {"iteration": iteration, "rank": rank, "prompt": prompt, "response": answered.texts[index]}
            kept.append(json.dumps({**row, "reward": float(rewards[index])}, ensure_ascii=False))
        self.path.write_text("\n".join(kept) + "\n", "utf-8")
