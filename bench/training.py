"""`python -m bench sft|dpo`: training steps of ours and of TRL on the same weights, rows and order, in alternating processes."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import sides
from bench.flops import throughput
from bench.results import DROPPED, TOLERANCE, assemble, best
from bench.sides import Measured
from bench.workload import DEVICES, SHAPES, SMALLEST_VOCABULARY, Workload
from schemas.errors import Refusal


def sft(arguments: list[str]) -> None:
    """Cross-entropy on the responses, 8 rows a step."""
    _main("sft", arguments)


def dpo(arguments: list[str]) -> None:
    """The sigmoid loss on 4 pairs a step."""
    _main("dpo", arguments)


def _main(kind: str, arguments: list[str]) -> None:
    given = _parse(kind, arguments)
    names = ("full", "steps", "shape", "device", "learning_rate", "passes", "model", "pairs")
    dtype = given.dtype or ("bfloat16" if given.device == "cuda" else "float32")
    workload = Workload(kind=kind, vocabulary=given.vocab, dtype=dtype, **{name: getattr(given, name) for name in names})
    try:
        result = compare(workload, given.rounds, given.threads, given.before)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(2)
    print(json.dumps(result, indent=1) if given.json else table(result))
    if not result["largest_loss_difference"] <= TOLERANCE[workload.dtype]:
        sys.exit(f"the losses differ by {result['largest_loss_difference']:.2e}, allowed {TOLERANCE[workload.dtype]:.0e}")


def _parse(kind: str, arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m bench {kind}", description=__doc__)
    parser.add_argument("--vocab", type=int, default=128_256, help="tokens of the vocabulary")
    parser.add_argument("--full", action="store_true", help="train every weight, tied head included; default is LoRA r=8")
    parser.add_argument("--steps", type=int, default=7, help=f"optimizer steps per process, the first {DROPPED} not timed")
    parser.add_argument("--rounds", type=int, default=2, help="processes per side, in turns")
    parser.add_argument("--passes", type=int, default=1, help="how often the rows are repeated within the steps")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="constant; large enough that the losses tell")
    parser.add_argument("--shape", choices=SHAPES, default="small", help="shape of the model")
    parser.add_argument("--model", type=_absolute, help="folder of a real model, in the place of --shape and --vocab")
    parser.add_argument("--pairs", type=_absolute, help="with --model: a file of pairs; default: generated ones")
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--dtype", choices=TOLERANCE, help="arithmetic of both sides; default: float32 on cpu, bfloat16 on cuda")
    parser.add_argument("--threads", type=int, help="threads of each operator; default: as many as cores")
    parser.add_argument("--before", type=Path, help="another checkout of this repository, measured as a side of its own")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    return parser.parse_args(arguments)


def _absolute(path: str) -> str:
    """The sides run in the repository's root."""
    return str(Path(path).resolve())


def compare(workload: Workload, rounds: int, threads: int | None, before: Path | None) -> dict[str, Any]:
    """Run every side `rounds` times in turns, so that what else the machine does hits all of them.

    Raises:
        Refusal: before anything runs, when the peer or the device is missing or a number makes no sense.
    """
    refuse_bad_numbers(workload, rounds)
    sides.refuse_without_peer(sides.TRL)
    sides.refuse_without_cuda(workload.device)
    commands = sides.commands(before)
    measured: dict[str, list[Measured]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        workload.write(folder)
        sides.call([sys.executable, "-m", "bench.real" if workload.model else "bench.workload", str(folder)])
        for turn in range(rounds):
            for name, command in commands.items():
                measured[name].append(sides.run(command, folder, threads))
                print(f"round {turn + 1}: {name} done", file=sys.stderr)
        speed = _throughput(workload, folder, threads, measured)
    return {**vars(workload), "rounds": rounds, "threads": threads, **assemble(measured), **speed}


def refuse_bad_numbers(workload: Workload, rounds: int) -> None:
    """Refuse workloads that cannot be measured; names the option."""
    checks = (
        ("--vocab", workload.vocabulary, SMALLEST_VOCABULARY, "the rows use that many tokens"),
        ("--steps", workload.steps, DROPPED + 1, f"the first {DROPPED} is not timed"),
        ("--rounds", rounds, 1, "each side runs at least once"),
    )
    for where, found, least, why in checks:
        if found < least:
            raise Refusal(where=where, found=str(found), allowed=f"{least} or more", remedy=f"raise it: {why}")
    if workload.pairs and not workload.model:
        raise Refusal(
            where="--pairs", found="no --model beside it", allowed="pairs of a model that has a tokenizer", remedy="add --model"
        )
    if workload.passes < 1 or workload.steps % workload.passes:
        raise Refusal(
            where="--passes",
            found=str(workload.passes),
            allowed=f"a divisor of {workload.steps} steps",
            remedy="change --steps or --passes",
        )


def _throughput(workload: Workload, folder: Path, threads: int | None, measured: Mapping[str, list[Measured]]) -> dict[str, Any]:
    """Tokens per second, and the share of the measured rate of matrix products: by the clock on a GPU, else by processor time."""
    rate = float(sides.call([sys.executable, "-m", "bench.flops", workload.device, workload.dtype], threads))

    def speed(rounds: list[Measured]) -> dict[str, float]:
        wall, processor = best([each.seconds for each in rounds]), best([each.cpu_seconds for each in rounds])
        return throughput(workload, folder, wall, processor if workload.device == "cpu" else wall, DROPPED, rate)

    return {"matmul_teraflops": rate / 1e12, "throughput": {name: speed(rounds) for name, rounds in measured.items()}}


def table(result: Mapping[str, Any]) -> str:
    """The numbers that a person compares."""
    model = result["model"] or f"shape {result['shape']}, vocabulary {result['vocabulary']:,}"
    what = f"{result['kind']}, {model}, {'every weight' if result['full'] else 'LoRA'}, {result['dtype']}"
    lines = [f"{what}, {result['device']}, {result['rounds']} rounds of {result['steps']} steps"]
    lines.append(f"{'side':<14}{'s/step':>9}{'cpu s/step':>12}{'reference':>11}{'peak GB':>9}   ours is")
    lines += [_row(name, side, result["ratios"].get(name)) for name, side in result["sides"].items()]
    speed = "{tokens_per_second:.0f} tokens/s, {matmul_share:.0%} of the rate of matrix products"
    for name, side in result["sides"].items():
        lines.append(f"{name}: {speed.format(**result['throughput'][name])}; {side['note']}")
    numbered = enumerate(zip(*(side["losses"] for side in result["sides"].values()), strict=True), start=1)
    lines += [f"loss {step}: " + "  ".join(f"{loss:.6f}" for loss in losses) for step, losses in numbered]
    return "\n".join([*lines, f"largest difference of a loss: {result['largest_loss_difference']:.1e}"])


def _row(name: str, side: Mapping[str, Any], ratio: Mapping[str, float] | None) -> str:
    seconds = f"{side['seconds_per_step']:>9.3f}{side['cpu_seconds_per_step']:>12.3f}{side['reference_seconds_per_step']:>11.3f}"
    memory = side["peak_gb"] if side["gpu_gb"] is None else side["gpu_gb"]
    against = "   {times_faster:.2f}x faster, {times_less_cpu:.2f}x less cpu, {memory_share:.2f} of its memory"
    return f"{name:<14}{seconds}{memory:>9.2f}{against.format(**ratio) if ratio else ''}"
