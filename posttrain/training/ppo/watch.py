"""What is seen over the iterations of PPO: a critic that explains nothing, prompts that teach nothing, and when to end early."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.runtime.progress import current
from posttrain.training.caution import EXPLAINS, NOTHING_VARIES, PATIENCE, USELESS_CRITIC
from schemas.ppo import PPO


class Watch:
    """Counts over iterations; it is in every checkpoint."""

    def __init__(self, spec: PPO) -> None:
        self.spec = spec
        self.explained: list[float] = []  # of the last iterations in which the policy trained
        self.flat = 0  # iterations in a row in which no prompt's responses differed
        self.best: dict[str, float] = {}  # of each monitor
        self.fallen: dict[str, int] = {}  # iterations in a row that a monitor lies below its best
        self.told: list[str] = []

    def see(self, numbers: Mapping[str, float], warming: bool) -> dict[str, float]:
        """Enter an iteration's numbers; returns those that several iterations make, and tells a person once what is wrong."""
        found: dict[str, float] = {}
        if "explained_variance_mc" in numbers and not warming:
            self.explained = [*self.explained, numbers["explained_variance_mc"]][-PATIENCE:]
            found["critic_explains"] = sum(self.explained) / len(self.explained)
        if "groups_without_variance" in numbers:
            self.flat = self.flat + 1 if numbers["groups_without_variance"] == 1 else 0
            found["iterations_without_variance"] = float(self.flat)
        if len(self.explained) == PATIENCE and found.get("critic_explains", 1.0) < EXPLAINS:
            self._tell("critic", USELESS_CRITIC.format(share=max(0.0, found["critic_explains"])))
        if self.flat == PATIENCE:
            self._tell("variance", NOTHING_VARIES.format(iterations=self.flat))
        return found

    def _tell(self, what: str, sentence: str) -> None:
        if what not in self.told:
            self.told.append(what)
            current().note(f"align: {sentence}")

    def ends(self, numbers: Mapping[str, float]) -> str:
        """Why training ends with this iteration, in words; empty where it goes on."""
        stop = self.spec.stop
        if stop.kl_per_response is not None and numbers["kl_per_response"] > stop.kl_per_response:
            return f"{numbers['kl_per_response']:.3g} nats per response from the reference, above {stop.kl_per_response:g}"
        if stop.monitor_falls is None:
            return ""
        monitors = {name: value for name, value in numbers.items() if name.startswith("monitor_")}
        for name, value in monitors.items():
            self.best[name] = max(self.best.get(name, value), value)
            self.fallen[name] = self.fallen.get(name, 0) + 1 if self.best[name] - value > stop.monitor_falls else 0
            if self.fallen[name] >= stop.patience:
                return f"{name} fell from {self.best[name]:.3g} to {value:.3g}"
        return ""

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {name: value.copy() if hasattr(value, "copy") else value for name, value in vars(self).items() if name != "spec"}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        vars(self).update(state)
