"""Responses over the course of PPO: the best, the middle and the worst of each iteration, as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

from posttrain.rewards.sources import Answered, Rewarded

ROLLOUTS = "rollouts.jsonl"


class SampleLog:
    """A log on disk; an iteration that is repeated after a resume replaces its lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, iteration: int, answered: Answered, rewarded: Rewarded) -> None:
        """Append the best, the middle and the worst response of an iteration, of those that have a reward."""
        lines = self.path.read_text("utf-8").split("\n") if self.path.exists() else []  # a text may hold other line separators
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["iteration"] < iteration]
        rewards = rewarded.total
        order = [index for index in rewards.argsort(descending=True).tolist() if not rewards[index].isnan()]
        for rank, index in {"best": order[0], "middle": order[len(order) // 2], "worst": order[-1]}.items():
            prompt = str(answered.conversations[index][-1]["content"])
            row = {"iteration": iteration, "rank": rank, "prompt": prompt, "response": answered.texts[index]}
            read = {name: said.extracted[index] for name, said in rewarded.said.items() if said.extracted}
            row |= {"reward": float(rewards[index])} | ({"extracted": read} if read else {})
            kept.append(json.dumps(row, ensure_ascii=False))
        self.path.write_text("\n".join(kept) + "\n", "utf-8")
