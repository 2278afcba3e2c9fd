"""The chunked, completion-only head against `log_softmax` over every position, forward and backward, in processes of their own.

The workload is one DPO micro-batch: rows of prompt and completion tokens of which a quarter are scored.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

TOKENS, SCORED, HIDDEN = 2048, 512, 256


def measure(side: str, vocabulary: int, repeats: int) -> dict[str, float]:
    """Median seconds of a forward and backward pass, peak resident memory in GB, and the loss."""
    import torch

    from posttrain.scoring.output_head import Head, token_logprobs

    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN).requires_grad_()
    weight = torch.randn(vocabulary, HIDDEN) * 0.05
    at = torch.arange(0, TOKENS, TOKENS // SCORED)
    targets = torch.randint(0, vocabulary, (SCORED,))

    def plain() -> torch.Tensor:
        return (hidden @ weight.T).log_softmax(-1)[at].gather(1, targets[:, None])[:, 0]

    def ours() -> torch.Tensor:
        return token_logprobs(hidden[at], Head(weight), targets)[0]

    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        loss = -(ours() if side == "ours" else plain()).mean()
        loss.backward()
        seconds.append(time.perf_counter() - started)
        hidden.grad = None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": statistics.median(seconds[1:]), "peak_gb": peak, "loss": loss.item()}


def main(arguments: list[str]) -> None:
    """Run both sides and print seconds, memory, ratios and both losses."""
    parser = argparse.ArgumentParser(prog="python -m bench head")
    parser.add_argument("--vocab", type=int, default=128_256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=["ours", "plain"], help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.side:
        print(json.dumps(measure(given.side, given.vocab, given.repeats)))
        return
    command = [sys.executable, "-m", "bench", "head", "--vocab", str(given.vocab), "--repeats", str(given.repeats), "--side"]
    sides = {side: json.loads(subprocess.check_output([*command, side])) for side in ("ours", "plain")}
    ours, plain = sides["ours"], sides["plain"]
    if abs(ours["loss"] - plain["loss"]) > 1e-4:
        sys.exit(f"the losses differ: {ours['loss']} and {plain['loss']}")
    ratios = {"times_faster": plain["seconds"] / ours["seconds"], "memory_share": ours["peak_gb"] / plain["peak_gb"]}
    result = {"vocabulary": given.vocab, **sides, **ratios}
    print(json.dumps(result, indent=1) if given.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
