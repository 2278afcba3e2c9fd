"""The chunked, completion-only head against `log_softmax` over every position, forward and backward, in processes of their own.

The workload is one DPO micro-batch: rows of prompt and completion tokens of which a quarter are scored. In bfloat16 the hidden
states are in half precision and both sides run under autocast; ours keeps fp32 logits there, which `against_fp32` prices: its
processor time by that in fp32, which other programs on the machine disturb less than the time on the clock.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

TOKENS, SCORED, HIDDEN = 2048, 512, 256
DTYPES = ("float32", "bfloat16")
# Of the losses of the two sides: autocast rounds the logits of the plain one to 8 bits.
TOLERANCES = {"float32": 1e-4, "bfloat16": 1e-2}


def measure(side: str, dtype: str, vocabulary: int, repeats: int) -> dict[str, float]:
    """Of a forward and backward pass median seconds and least processor seconds; peak resident memory in GB, and the loss."""
    import torch

    from posttrain.scoring.output_head import Head, token_logprobs

    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    hidden = torch.randn(TOKENS, HIDDEN).to(kind).requires_grad_()
    weight = torch.randn(vocabulary, HIDDEN) * 0.05
    at = torch.arange(0, TOKENS, TOKENS // SCORED)
    targets = torch.randint(0, vocabulary, (SCORED,))

    def plain() -> torch.Tensor:
        return (hidden @ weight.T).log_softmax(-1)[at].gather(1, targets[:, None])[:, 0]

    def ours() -> torch.Tensor:
        return token_logprobs(hidden[at], Head(weight), targets)[0]

    seconds, processor = [], []
    for _ in range(repeats + 1):
        started, used = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", dtype=kind, enabled=kind != torch.float32):
            loss = -(ours() if side == "ours" else plain()).mean()
        loss.backward()
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
        hidden.grad = None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    times = {"seconds": statistics.median(seconds[1:]), "cpu_seconds": min(processor[1:])}
    return {**times, "peak_gb": peak, "loss": loss.item()}


def compared(ours: dict[str, float], plain: dict[str, float], dtype: str) -> dict[str, Any]:
    """Both sides and their ratios; ends the program where their losses differ."""
    if abs(ours["loss"] - plain["loss"]) > TOLERANCES[dtype]:
        sys.exit(f"the losses differ in {dtype}: {ours['loss']} and {plain['loss']}")
    ratios = {"times_faster": plain["seconds"] / ours["seconds"], "memory_share": ours["peak_gb"] / plain["peak_gb"]}
    return {"ours": ours, "plain": plain, **ratios}


def main(arguments: list[str]) -> None:
    """Run both sides in both arithmetics and print seconds, memory, ratios and losses."""
    parser = argparse.ArgumentParser(prog="python -m bench head")
    parser.add_argument("--vocab", type=int, default=128_256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "DTYPE"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.side:
        print(json.dumps(measure(*given.side, given.vocab, given.repeats)))
        return
    command = [sys.executable, "-m", "bench", "head", "--vocab", str(given.vocab), "--repeats", str(given.repeats), "--side"]
    found = {
        dtype: compared(*(json.loads(subprocess.check_output([*command, side, dtype])) for side in ("ours", "plain")), dtype)
        for dtype in DTYPES
    }
    exact, half = (found[dtype]["ours"]["cpu_seconds"] for dtype in DTYPES)
    found["bfloat16"]["against_fp32"] = half / exact
    print(json.dumps({"vocabulary": given.vocab, **found}, indent=1) if given.json else _as_text(found))


def _as_text(found: dict[str, dict[str, Any]]) -> str:
    return "\n".join(f"{dtype} {name}: {value}" for dtype, rows in found.items() for name, value in rows.items())


if __name__ == "__main__":
    main(sys.argv[1:])
