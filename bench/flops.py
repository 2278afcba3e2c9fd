"""Floating-point operations that the training workload needs, and the rate at which this machine multiplies matrices."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.workload import Workload, read_token_rows

SIZES = {"cpu": (1024, 8), "cuda": (8192, 50)}  # of the square matrices, and how often they are multiplied


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind: grouped queries, a gated feed-forward part, a head over the vocabulary."""

    hidden: int
    queries: int
    """Width of all query heads together."""
    keys: int
    """Width of all key heads together."""
    feed_forward: int
    layers: int
    vocabulary: int

    @classmethod
    def read(cls, model: Path) -> Shape:
        """From the config of a saved model."""
        config = json.loads((model / "config.json").read_text())
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        head = config.get("head_dim") or hidden // heads
        keys = head * (config.get("num_key_value_heads") or heads)
        return cls(hidden, head * heads, keys, config["intermediate_size"], config["num_hidden_layers"], config["vocab_size"])

    @property
    def body(self) -> int:
        """Weights of all layers' matrices."""
        return self.layers * self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.feed_forward)


def lengths(workload: Workload, folder: Path) -> list[tuple[int, list[int]]]:
    """Tokens of the prompt and of each trained response with its end token, row by row."""
    names = ("chosen", "rejected") if workload.kind == "dpo" else ("chosen",)
    return [(len(row["prompt"]), [len(row[name]) for name in names]) for row in read_token_rows(folder)]


def needed(shape: Shape, full: bool, prompt: int, responses: Sequence[int]) -> float:
    """Operations of one training step on one row, the reference not counted.

    The least that is needed: the prompt once, the output head on the responses alone. A product of a weight with a token costs 2
    operations per parameter; backward it costs 2 for the gradient of the token, and 2 for that of the weight where it trains.
    Attention costs 4 operations per visible key, layer and unit of the queries' width, backward twice that. Adapters, norms and
    the optimizer are left out.
    """
    visible = prompt * (prompt + 1) / 2 + sum(n * prompt + n * (n + 1) / 2 for n in responses)
    products = 2 * shape.body * (prompt + sum(responses)) + 2 * shape.hidden * shape.vocabulary * sum(responses)
    return (3 if full else 2) * products + 3 * 4 * shape.queries * shape.layers * visible


def throughput(
    workload: Workload, folder: Path, wall: Sequence[float], busy: Sequence[float], dropped: int, rate: float
) -> dict[str, float]:
    """Tokens per second (each prompt once), and the share of the matmul `rate` that the needed operations make up.

    Args:
        workload: what was trained.
        folder: its model and rows.
        wall: seconds of the steps by the clock.
        busy: seconds of the steps in the unit of `rate`: of the clock, or of the processor.
        dropped: first steps that are not among them.
        rate: operations per second of a product of matrices.
    """
    rows, shape = lengths(workload, folder)[dropped * workload.batch :], Shape.read(folder / "model")
    tokens = sum(prompt + sum(responses) for prompt, responses in rows)
    operations = sum(needed(shape, workload.full, *row) for row in rows)
    return {"tokens_per_second": tokens / sum(wall), "matmul_share": operations / sum(busy) / rate}


def measure_matmul(device: str, dtype: str) -> float:
    """Operations per second of a product of two square matrices: on a CPU per second of one processor, so that what else the
    machine does hardly counts."""
    import torch

    from posttrain.runtime.cpu_products import fast_cpu_products

    fast_cpu_products()  # the chip's limit is the better library's
    size, repeats = SIZES[device]
    left, right = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))

    def products(count: int) -> None:
        for _ in range(count):
            left @ right

    products(5)
    seconds = {"cpu": _processor_seconds, "cuda": _gpu_seconds}[device](lambda: products(repeats))
    return 2 * size**3 * repeats / seconds


def _processor_seconds(work: Callable[[], None]) -> float:
    """The least of a few tries."""

    def once() -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    return min(once() for _ in range(5))


def _gpu_seconds(work: Callable[[], None]) -> float:
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the rate of products of matrices, in operations per second.")
    parser.add_argument("device", choices=SIZES)
    parser.add_argument("dtype", choices=["float32", "bfloat16"])
    print(measure_matmul(**vars(parser.parse_args())))
