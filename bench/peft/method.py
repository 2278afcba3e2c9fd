"""`python -m bench.peft.method FOLDER METHOD STEPS RESULT`: one method in a process of its own, whose memory is its own."""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerBase

from bench.peft.task import BATCH
from bench.results import DROPPED
from posttrain.checkpoints.load import load_model, load_tokenizer
from posttrain.data.encode import encode_conversations, encode_prompts
from posttrain.forecast.sizing import counts
from posttrain.models.policy import Policy
from posttrain.peft.merge import is_plain
from posttrain.peft.methods import METHODS
from posttrain.peft.soft_prompts import generate
from posttrain.peft.wrap import save_trained, wrap
from posttrain.runtime.peak_memory import peak_memory_gb, reset_peak, resident_bytes
from posttrain.runtime.progress import Quiet
from posttrain.scoring.layout_choice import choose_layout
from posttrain.scoring.scorer import Scorer
from posttrain.scoring.token_budget import scoring_tokens
from posttrain.training.batches import by_rows
from posttrain.training.loop import CURVE, Job, train
from posttrain.training.objectives import LanguageModelling
from posttrain.training.validation import mean_loss
from schemas.peft import Peft
from schemas.recipe import Compute
from schemas.training import Optimization

CPU = torch.device("cpu")
HELD_OUT, MAX_LENGTH = 64, 512
LEARNING_RATE = 1e-3  # of LoRA; the others take a multiple of it
CHANGES: dict[str, dict[str, Any]] = {"oft": {"block_size": 16}}  # 32, the default, does not divide the model's 688
REPEATS = 6  # of a pass; the fastest counts, since other work on the machine only ever adds time
NEW_TOKENS = 32


@dataclass(frozen=True)
class Measured:
    """What one process measured."""

    family: str
    """Of the taxonomy."""
    learning_rate: float
    """Peak of the schedule."""
    trainable_share: float
    """Trained parameters of all, those of the method counted in."""
    adapter_bytes: int
    """Safetensors that a stage saves."""
    memory_bytes: float
    """Peak of resident memory while training, over what the process held with libraries, rows and base model in memory."""
    seconds_per_step: float
    """Median."""
    backward_to_forward: float
    """Time of a backward pass as a multiple of the forward pass before it."""
    base_seconds_per_token: float
    """Of generated tokens, one row, the base alone."""
    seconds_per_token: float
    """With the method in the model."""
    merged_seconds_per_token: float | None
    """After the merge; None where there is none."""
    start_loss: float
    """On held-out rows before the first step."""
    loss: float
    """After the last one."""


def measure(folder: Path, method: str, steps: int, out: Path) -> Measured:
    """Train `steps` steps on the model in `folder` and take every number; `out` is an empty folder."""
    policy = Policy(str(folder / "model"))
    tokenizer, table = load_tokenizer(policy), pl.read_parquet(folder / "instructions.parquet", glob=False)
    train_rows = _objective(table.filter(split="train").head(steps * BATCH), tokenizer)
    held_out = _objective(table.filter(split="holdout").head(HELD_OUT), tokenizer)
    base = load_model(policy, CPU)
    reset_peak()
    before = resident_bytes()
    spec: Peft = TypeAdapter(Peft).validate_python({"method": method, **CHANGES.get(method, {})})
    scorer = Scorer(wrap(base, spec, 0, "bench", tokenizer), CPU).eval()
    choose_layout(scorer, train_rows.examples).apply(scorer)
    start_loss = mean_loss(scorer, held_out, scoring_tokens(CPU))
    rate = LEARNING_RATE * METHODS[method].rate
    seconds = _train(scorer, train_rows, rate, out)
    memory = peak_memory_gb() * 1e9 - before
    loss = mean_loss(scorer, held_out, scoring_tokens(CPU))
    forward, backward = passes(scorer, train_rows, range(BATCH))
    saved = save_trained(scorer.model, tokenizer, spec, policy, out)
    latency = _latency(scorer.model, policy, saved, out, encode_prompts(table["prompt"].to_list()[:1], tokenizer)[0])
    return Measured(
        family=METHODS[method].family,
        learning_rate=rate,
        trainable_share=counts(scorer.model)["trainable_share"],
        adapter_bytes=sum(path.stat().st_size for path in out.glob("*/*.safetensors")),
        memory_bytes=memory,
        seconds_per_step=statistics.median(seconds[DROPPED:]),
        backward_to_forward=backward / forward,
        start_loss=start_loss,
        loss=loss,
        **latency,
    )


def _objective(rows: pl.DataFrame, tokenizer: PreTrainedTokenizerBase) -> LanguageModelling:
    """Cross-entropy on the answers."""
    return LanguageModelling(encode_conversations(rows, tokenizer, MAX_LENGTH, "data.instructions").examples)


def _train(scorer: Scorer, objective: LanguageModelling, rate: float, out: Path) -> list[float]:
    """Seconds of each step."""
    job = Job(
        name="bench",
        scorer=scorer,
        objective=objective,
        plan=by_rows(len(objective.examples), BATCH, 1, 0),
        spec=Optimization(learning_rate=rate),
        compute=Compute(device="cpu", checkpoint_seconds=1e9, log_every=1),
        out=out,
        progress=Quiet(),
    )
    train(job)
    ends = [json.loads(line)["seconds"] for line in (out / CURVE).read_text().splitlines()]
    return [end - start for start, end in itertools.pairwise([0.0, *ends])]


def passes(scorer: Scorer, objective: LanguageModelling, rows: Sequence[int]) -> tuple[float, float]:
    """Seconds of the fastest forward and of the fastest backward pass over some rows."""
    scorer.train()
    forward, backward = [], []
    for _ in range(REPEATS):
        began = time.perf_counter()
        loss, _ = objective.loss(scorer([objective.examples[row] for row in rows]), rows)
        between = time.perf_counter()
        loss.backward()
        forward.append(between - began)
        backward.append(time.perf_counter() - between)
        scorer.zero_grad(set_to_none=True)
    scorer.eval()
    return min(forward), min(backward)


def _latency(adapted: Any, policy: Policy, saved: Mapping[str, str], out: Path, prompt: np.ndarray) -> dict[str, float | None]:
    """Seconds per generated token of the base, of the trained model and of the merged one, in turns."""
    after = Policy(str(out / saved["model"])) if "model" in saved else Policy(policy.base, adapters=(out / saved["adapter"],))
    merged: Any = load_model(after, CPU)
    models = {"base_seconds_per_token": load_model(policy, CPU), "seconds_per_token": adapted}
    models |= {"merged_seconds_per_token": merged} if is_plain(merged) else {}
    turns = [{name: _seconds_per_token(model.eval(), prompt) for name, model in models.items()} for _ in range(REPEATS)]
    fastest: dict[str, float | None] = {name: min(turn[name] for turn in turns) for name in models}
    return {"merged_seconds_per_token": None} | fastest


def _seconds_per_token(model: Any, prompt: np.ndarray) -> float:
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    began = time.perf_counter()
    generate(model, ids, torch.ones_like(ids), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
    return (time.perf_counter() - began) / NEW_TOKENS


def main() -> None:
    """Measure and write the result as JSON where the parent process looks for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what bench.peft.task wrote")
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("steps", type=int)
    parser.add_argument("result", type=Path)
    given = parser.parse_args()
    out = given.result.with_suffix(".run")
    out.mkdir()
    given.result.write_text(json.dumps(asdict(measure(given.folder, given.method, given.steps, out))))


if __name__ == "__main__":
    main()
