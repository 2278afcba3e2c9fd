"""Floating-point operations that the training workload needs, and the rate at which this GPU multiplies matrices."""

from __future__ import annotations

from collections.abc import Sequence

from bench.workload import SHAPES, Workload, token_ids


def lengths(workload: Workload) -> list[tuple[int, list[int]]]:
    """Tokens of the prompt and of each trained response with its end token, row by row."""
    names = ("chosen", "rejected") if workload.kind == "dpo" else ("chosen",)
    return [(len(token_ids(row["prompt"])), [len(token_ids(row[name])) + 1 for name in names]) for row in workload.rows()]


def needed(shape: str, vocabulary: int, full: bool, prompt: int, responses: Sequence[int]) -> float:
    """Operations of one training step on one row, the reference not counted.

    The least that is needed: the prompt once, the output head on the responses alone. A product of a weight with a token costs 2
    operations per parameter; backward it costs 2 for the gradient of the token, and 2 for that of the weight where it trains.
    Attention costs 4 H per visible key and layer, backward twice that. Adapters, norms and the optimizer are left out.
    """
    s = SHAPES[shape]
    hidden, layers = s["hidden_size"], s["num_hidden_layers"]
    keys = hidden * s["num_key_value_heads"] // s["num_attention_heads"]
    body = layers * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * s["intermediate_size"])
    head = hidden * vocabulary
    visible = prompt * (prompt + 1) / 2 + sum(n * prompt + n * (n + 1) / 2 for n in responses)
    products = 2 * body * (prompt + sum(responses)) + 2 * head * sum(responses)
    return (3 if full else 2) * products + 3 * 4 * hidden * layers * visible


def throughput(workload: Workload, seconds: Sequence[float], dropped: int, rate: float) -> dict[str, float]:
    """Tokens per second (each prompt once), and the share of the matmul `rate` that the needed operations make up."""
    rows = lengths(workload)[dropped * workload.batch :]
    tokens = sum(prompt + sum(responses) for prompt, responses in rows)
    operations = sum(needed(workload.shape, workload.vocabulary, workload.full, *row) for row in rows)
    return {"tokens_per_second": tokens / sum(seconds), "matmul_share": operations / sum(seconds) / rate}


def measure_matmul(size: int = 8192, repeats: int = 50) -> float:
    """Operations per second of a bf16 product of two square matrices on this GPU."""
    import torch

    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(5):
        left @ right
    start.record()
    for _ in range(repeats):
        left @ right
    end.record()
    torch.cuda.synchronize()
    return 2 * size**3 * repeats / (start.elapsed_time(end) / 1e3)


if __name__ == "__main__":
    print(measure_matmul())
