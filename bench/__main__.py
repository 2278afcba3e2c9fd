"""`python -m bench NAME [--json] …`: run one benchmark; without a name, list them."""

from __future__ import annotations

import importlib
import sys

BENCHMARKS = {
    "head": ("bench.head:main", "the output head against plain PyTorch log_softmax: seconds, peak memory, equal losses"),
    "sft": ("bench.training:sft", "steps of supervised fine-tuning against TRL (make peers): seconds, peak memory, equal losses"),
    "dpo": ("bench.training:dpo", "steps of DPO against TRL (make peers): seconds, peak memory, equal losses"),
    "peft": ("bench.peft.command:main", "every PEFT method: trained share, bytes, memory, step time, latency, loss"),
    "ppo": ("bench.ppo:main", "iterations of PPO, rollouts and four epochs, against TRL 1.10 (make peers): seconds, peak memory"),
    "validate": ("bench.validate:main", "the data contract: rows a second a core, peak memory of a large file (--gb 4)"),
    "estimators": ("bench.estimators:main", "GAE, RLOO and GRPO on the same samples: what they reach, with intervals over seeds"),
    "filter": (
        "bench.filter.command:main",
        "the corpus filter against datatrove (make peers): megabytes a second and core, memory",
    ),
    "chaos": ("bench.chaos:main", "deployed runs under kills and outages: do they complete, to the same weights?"),
    "numbers": ("bench.numbers:main", "what the numbers are worth: errors of half precision (--markdown for tables)"),
    "rollouts": ("bench.rollouts:main", "sampled tokens per second against generate of transformers: equal greedy tokens"),
}


def main() -> None:
    """Hand the rest of the command line to the benchmark's function."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in BENCHMARKS:
        lines = "\n".join(f"  python -m bench {each}   {about}" for each, (_, about) in BENCHMARKS.items())
        print(f"benchmarks:\n{lines}")
        sys.exit(2 if name else 0)
    module, function = BENCHMARKS[name][0].split(":")
    getattr(importlib.import_module(module), function)(sys.argv[2:])


if __name__ == "__main__":
    main()
