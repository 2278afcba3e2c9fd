"""`python -m bench ppo`: iterations of PPO, ours and TRL's, on the same weights and prompts, in alternating processes.

An iteration samples 64 responses of 48 tokens, scores them by policy, reference, critic and reward model, and trains four passes
of four steps on them. TRL's defaults are what its documentation shows: a value model that is trained as a whole.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import sides
from bench.results import DROPPED, assemble
from bench.sides import Measured
from bench.training import refuse_bad_numbers
from bench.workload import SHAPES, Workload
from schemas.errors import Refusal

OURS, TRL = "bench.ppo_ours", "bench.peers.trl_ppo"
# Sides by name, in the order in which they alternate: a module, and where our values come from or how TRL is set.
SIDES = {
    "ours": (OURS, "trunk"), "ours_critic": (OURS, "adapter"), "trl_defaults": (TRL, "defaults"), "trl_best": (TRL, "best")
}  # fmt: skip
ENTROPY_TOLERANCE = 0.01  # relative: sides that sample other tokens from one policy differ by less


def main(arguments: list[str]) -> None:
    """Run every side in turns and print seconds per iteration, memory and ratios."""
    given = _parse(arguments)
    workload = Workload("ppo", given.vocab, False, given.steps, given.shape, "cpu", given.learning_rate)
    try:
        result = compare(workload, given.rounds, given.threads)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(2)
    print(json.dumps(result, indent=1) if given.json else table(result))
    entropies = [side["facts"]["entropy"] for side in result["sides"].values()]
    if max(entropies) > (1 + ENTROPY_TOLERANCE) * min(entropies):
        sys.exit(f"the sides' policies differ: entropies per token of {', '.join(f'{each:.3f}' for each in entropies)} nats")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench ppo", description=__doc__)
    parser.add_argument("--vocab", type=int, default=8192, help="tokens of the vocabulary")
    parser.add_argument("--steps", type=int, default=3, help=f"iterations per process, the first {DROPPED} not timed")
    parser.add_argument("--rounds", type=int, default=2, help="processes per side, in turns")
    parser.add_argument("--learning-rate", type=float, default=1e-5, help="constant; small, so that all sides sample alike")
    parser.add_argument("--shape", choices=SHAPES, default="small", help="shape of the model")
    parser.add_argument("--threads", type=int, help="threads of each operator; default: as many as cores")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    return parser.parse_args(arguments)


def compare(workload: Workload, rounds: int, threads: int | None) -> dict[str, Any]:
    """Run every side `rounds` times in turns, so that what else the machine does hits all of them.

    Raises:
        Refusal: before anything runs, when the peer is missing or a number makes no sense.
    """
    refuse_bad_numbers(workload, rounds)
    sides.refuse_without_peer(sides.TRL_PPO)
    measured: dict[str, list[Measured]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        workload.write(folder)
        sides.call([sys.executable, "-m", "bench.workload", str(folder)])
        for turn in range(rounds):
            for name, (module, setting) in SIDES.items():
                interpreter = str(sides.TRL_PPO) if module == TRL else sys.executable
                command = [interpreter, "-m", module, "--setting", setting]
                measured[name].append(sides.run(command, folder, threads))
                print(f"round {turn + 1}: {name} done", file=sys.stderr)
    compared = assemble(measured)
    del compared["largest_loss_difference"]  # the sides sample: no loss is equal to another's
    return {**vars(workload), "rounds": rounds, "threads": threads, **compared}


def table(result: Mapping[str, Any]) -> str:
    """The numbers that a person compares."""
    lines = [f"ppo, vocabulary {result['vocabulary']:,}, shape {result['shape']}, {result['rounds']} rounds of {result['steps']}"]
    lines.append(f"{'side':<14}{'s/iteration':>12}{'cpu s':>9}{'peak GB':>9}   ours is")
    lines += [_row(name, side, result["ratios"].get(name)) for name, side in result["sides"].items()]
    for name, side in result["sides"].items():
        facts = ", ".join(f"{fact.replace('_', ' ')} {value:.4g}" for fact, value in side["facts"].items())
        lines.append(f"{name}: {side['note']}; {facts}")
    return "\n".join(lines)


def _row(name: str, side: Mapping[str, Any], ratio: Mapping[str, float] | None) -> str:
    numbers = f"{side['seconds_per_step']:>12.2f}{side['cpu_seconds_per_step']:>9.2f}{side['peak_gb']:>9.2f}"
    against = "   {times_faster:.2f}x faster, {times_less_cpu:.2f}x less cpu, {memory_share:.2f} of its memory"
    return f"{name:<14}{numbers}{against.format(**ratio) if ratio else ''}"
