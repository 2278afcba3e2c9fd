"""What a stage cost: time, tokens, memory, and how much of what the chip can multiply it used."""

from __future__ import annotations

from posttrain.report.read import Json
from schemas.results import StageReport, StageResult


def cost(stage: StageReport, result: StageResult | None, curve: list[Json]) -> Json:
    """Seconds now and when it was built, and the throughput over its whole curve."""
    last: Json = curve[-1] if curve else {}
    tokens, seconds = last.get("tokens"), last.get("seconds")
    return {
        "stage": stage.name,
        "seconds": stage.seconds,
        "built": result.seconds if result else None,
        "steps": last.get("step"),
        "tokens": tokens,
        "tokens_per_second": tokens / seconds if tokens and seconds else None,
        "rate": stage.metrics.get("learning_rate"),
        "memory": stage.metrics.get("peak_memory_gb"),
        "matmul_share": matmul_share(stage.metrics, tokens, seconds),
        "energy": stage.metrics.get("energy_wh"),
    }


def matmul_share(metrics: dict[str, float], tokens: float | None, seconds: float | None) -> float | None:
    """Share of the chip's rate of products that training used, by the operations that its tokens need at least.

    A parameter costs a token 2 operations forward, 2 backward for what is before it, and 2 more where it is trained (Kaplan et
    al. 2020, arXiv 2001.08361, section 2.1). Attention, the reference and validation are left out, so the true share is higher.
    """
    rate, parameters = metrics.get("matmul_gflops"), metrics.get("parameters")
    if not rate or not parameters or not tokens or not seconds:
        return None
    operations = tokens * (4 * parameters + 2 * metrics.get("trainable_parameters", 0.0))
    return operations / seconds / (1e9 * rate)
