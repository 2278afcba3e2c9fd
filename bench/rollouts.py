"""`python -m bench rollouts`: sampled tokens per second, ours against `generate` of transformers, in alternating processes.

Both sample from the full distribution at temperature 1 after the same prompts, in one batch: once to the last token, with EOS
switched off, and once with an EOS that comes after 32 tokens on average. Before that both decode greedily, which must agree.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import sides
from bench.responses import RUNS, SIDES, Batch
from bench.workload import SHAPES, SMALLEST_VOCABULARY
from schemas.errors import Refusal

AGREEMENT = 0.95  # share of greedy tokens: where two logits are equal up to rounding, the rest of a response differs
CLOCKS = ("seconds", "cpu_seconds")
Measured = Mapping[str, Sequence[Mapping[str, Any]]]
"""What each process of each side wrote."""


def main(arguments: list[str]) -> None:
    """Run both sides in turns and print tokens per second, peak memory and ratios."""
    given = _parse(arguments)
    batch = Batch(**{name: getattr(given, name) for name in ("vocabulary", "shape", "prompts", "tokens", "repeats", "device")})
    try:
        result = compare(batch, given.rounds, given.threads)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(2)
    print(json.dumps(result, indent=1) if given.json else table(result))
    if result["greedy_agreement"] < AGREEMENT:
        sys.exit(f"greedy tokens agree by {result['greedy_agreement']:.3f}, asked {AGREEMENT}")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench rollouts", description=__doc__)
    parser.add_argument("--vocab", dest="vocabulary", type=int, default=128_256, help="tokens of the vocabulary")
    parser.add_argument("--shape", choices=SHAPES, default="small", help="shape of the model")
    parser.add_argument("--prompts", type=int, default=64, help="prompts of the batch")
    parser.add_argument("--tokens", type=int, default=48, help="most tokens of a response")
    parser.add_argument("--repeats", type=int, default=3, help="times that each process samples")
    parser.add_argument("--rounds", type=int, default=2, help="processes per side, in turns")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cpu in fp32, cuda in bf16")
    parser.add_argument("--threads", type=int, help="threads of each operator; default: as many as cores")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    return parser.parse_args(arguments)


def compare(batch: Batch, rounds: int, threads: int | None) -> dict[str, Any]:
    """Run every side `rounds` times in turns, so that what else the machine does hits both.

    Raises:
        Refusal: before anything runs, when the device is missing or the vocabulary is too small.
    """
    if batch.vocabulary < SMALLEST_VOCABULARY:
        remedy = "raise it: the prompts use that many tokens"
        raise Refusal(where="--vocab", found=str(batch.vocabulary), allowed=f"{SMALLEST_VOCABULARY} or more", remedy=remedy)
    sides.refuse_without_cuda(batch.device)
    measured: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        given, result = Path(scratch) / "batch.json", Path(scratch) / "result.json"
        given.write_text(json.dumps(asdict(batch)))
        for turn in range(rounds):
            for side in SIDES:
                sides.call([sys.executable, "-m", "bench.responses", side, str(given), str(result)], threads)
                measured[side].append(json.loads(result.read_text()))
                print(f"round {turn + 1}: {side} done", file=sys.stderr)
    return {**asdict(batch), "rounds": rounds, "threads": threads, **assemble(measured)}


def assemble(measured: Measured) -> dict[str, Any]:
    """Tokens per second of each side, the ratios of ours to the other, and the share of greedy tokens that agree."""
    summaries = {side: _summary(rounds) for side, rounds in measured.items()}
    ours, theirs = (summaries[side] for side in SIDES)
    ratios = {f"times_faster_{run}": ours[run]["per_second"] / theirs[run]["per_second"] for run in RUNS}
    ratios |= {f"times_less_cpu_{run}": ours[run]["per_cpu_second"] / theirs[run]["per_cpu_second"] for run in RUNS}
    pairs = [
        pair for rows in zip(*(measured[side][0]["greedy"] for side in SIDES), strict=True) for pair in zip(*rows, strict=True)
    ]
    return {
        "sides": summaries,
        "ratios": {**ratios, "memory_share": ours["peak_gb"] / theirs["peak_gb"]},
        "greedy_agreement": sum(a == b for a, b in pairs) / len(pairs),
    }


def _summary(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tokens over the time of all repeats, each in its fastest round: other work on the machine only ever adds time."""
    speeds: dict[str, Any] = {}
    for run in RUNS:
        tokens = sum(repeat["tokens"] for repeat in rounds[0][run])
        repeats = list(zip(*(each[run] for each in rounds), strict=True))
        total = {clock: sum(min(each[clock] for each in repeat) for repeat in repeats) for clock in CLOCKS}
        speeds[run] = {"per_second": tokens / total["seconds"], "per_cpu_second": tokens / total["cpu_seconds"]}
    return {**speeds, "peak_gb": max(each["peak_gb"] for each in rounds)}


def table(result: Mapping[str, Any]) -> str:
    """The numbers that a person compares."""
    what = f"{result['prompts']} prompts, up to {result['tokens']} tokens, vocabulary {result['vocabulary']:,}"
    lines = [
        f"{what}, shape {result['shape']}, {result['device']}",
        f"{'tokens/s':<14}{'to the end':>12}{'with EOS':>12}{'peak GB':>9}",
    ]
    for name, side in result["sides"].items():
        lines.append(f"{name:<14}" + "".join(f"{side[run]['per_second']:>12,.0f}" for run in RUNS) + f"{side['peak_gb']:>9.2f}")
    lines += [f"{name}: {ratio:.2f}" for name, ratio in result["ratios"].items()]
    return "\n".join([*lines, f"greedy tokens that agree: {result['greedy_agreement']:.4f}"])
