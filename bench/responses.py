"""One side of `rollouts` as a process: it samples responses to the workload's prompts, again and again, and times them."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench import sides
from bench.workload import LENGTHS, USUAL_LENGTHS, eos_id, make_model, rows, token_ids

USUAL_TOKENS = 32  # mean length of a response that ends by itself
COLD = 1e-5  # temperature at which ours is greedy
SIDES = ("ours", "transformers")
RUNS = ("full_length", "with_eos")


@dataclass(frozen=True)
class Batch:
    """What both sides sample."""

    vocabulary: int
    """Tokens of the vocabulary."""
    shape: str
    """A name of `bench.workload.SHAPES`."""
    prompts: int
    """Prompts, all in one batch."""
    tokens: int
    """Most tokens of a response."""
    repeats: int
    """How often the batch is sampled, each time with another seed."""
    device: str
    """`cpu` (fp32) or `cuda` (bf16)."""


class Respond(Protocol):
    """A side: responses of at most `tokens` tokens to the prompts, ended by `eos` where it is not None."""

    def __call__(
        self, model: Any, prompts: list[list[int]], tokens: int, eos: int | None, seed: int, greedy: bool = False
    ) -> list[list[int]]:
        """One response per prompt, from the full distribution at temperature 1, or greedily."""


def ours(model: Any, prompts: list[list[int]], tokens: int, eos: int | None, seed: int, greedy: bool = False) -> list[list[int]]:
    """The product's own sampler."""
    import numpy as np

    from posttrain.sampling.sampler import Sampling, sample

    plan = Sampling(
        max_new_tokens=tokens, temperature=COLD if greedy else 1.0, seed=seed, ends=() if eos is None else (eos,), pad=0
    )
    return [response.tolist() for (response,) in sample(model, [np.asarray(prompt, np.int32) for prompt in prompts], plan)]


def generate(
    model: Any, prompts: list[list[int]], tokens: int, eos: int | None, seed: int, greedy: bool = False
) -> list[list[int]]:
    """`generate` of transformers, on prompts padded on the left."""
    import torch

    torch.manual_seed(seed)
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    attended = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    model.generation_config.eos_token_id = eos
    drawn = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
    out = model.generate(ids, attention_mask=attended, max_new_tokens=tokens, pad_token_id=0, **drawn)[:, width:].tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in out]


def measure(respond: Respond, batch: Batch) -> dict[str, Any]:
    """Tokens, wall clock and processor time of every repeat of both runs, peak memory in GB, and the greedy tokens."""
    import torch

    model = _model(batch).to(batch.device).eval()
    prompts = [token_ids(row["prompt"]) for row in rows(batch.prompts, *LENGTHS.get(batch.shape, USUAL_LENGTHS))]
    with torch.autocast(batch.device, dtype=torch.bfloat16, enabled=batch.device == "cuda"):
        greedy = respond(model, prompts, batch.tokens, None, 0, greedy=True)  # also warms up
        runs = {
            run: [_timed(respond, model, prompts, batch.tokens, eos, seed) for seed in range(batch.repeats)]
            for run, eos in zip(RUNS, (None, eos_id(batch.vocabulary)), strict=True)
        }
    peak = torch.cuda.max_memory_allocated() / 1e9 if batch.device == "cuda" else sides.peak_gb()
    return {**runs, "peak_gb": peak, "greedy": greedy}


def _model(batch: Batch) -> Any:
    """The workload's model with a bias on EOS, which comes after `USUAL_TOKENS` tokens on average."""
    import torch

    model = make_model(batch.vocabulary, batch.shape)
    head = torch.nn.Linear(model.config.hidden_size, batch.vocabulary)
    head.weight = model.lm_head.weight
    torch.nn.init.zeros_(head.bias)
    with torch.no_grad():
        head.bias[eos_id(batch.vocabulary)] = math.log(batch.vocabulary / (USUAL_TOKENS - 1))
    model.lm_head = head
    return model


def _timed(respond: Respond, *given: Any) -> dict[str, float]:
    began = sides.clocks()
    tokens = sum(map(len, respond(*given)))
    ended = sides.clocks()
    return {"tokens": tokens, "seconds": ended[0] - began[0], "cpu_seconds": ended[1] - began[1]}


def main() -> None:
    """Measure and write the result where the parent process looks for it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("batch", type=Path, help="JSON file with the batch")
    parser.add_argument("result", type=Path, help="JSON file to write")
    given = parser.parse_args()
    respond: Respond = ours if given.side == "ours" else generate
    given.result.write_text(json.dumps(measure(respond, Batch(**json.loads(given.batch.read_text())))))


if __name__ == "__main__":
    main()
