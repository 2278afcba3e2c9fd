"""Our side of `sft` and `dpo`: the product's own path, from the model's folder to the training curve."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from bench.sides import Measured, arguments, clocks, peak_gb
from bench.workload import BETA, Workload, read_token_rows, start_adapter
from posttrain.checkpoints.load import load_model
from posttrain.data.packing import Example, Tokens
from posttrain.models.policy import Policy
from posttrain.peft.wrap import wrap
from posttrain.runtime.progress import Quiet
from posttrain.scoring.reference import score_branches
from posttrain.scoring.scorer import Scorer
from posttrain.scoring.token_budget import scoring_tokens
from posttrain.training.fit import ready
from posttrain.training.loop import CURVE, Job, train
from posttrain.training.objectives import LanguageModelling, Preference
from schemas.recipe import Compute
from schemas.training import Full, LoRA, Optimization

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class ProcessorTime(Quiet):
    """Notes the processor time before the first step and after each, or after every so many."""

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.at: list[float] = []

    def start(self, what: str, total: int) -> None:
        """The first step begins."""
        self.at.append(clocks()[1])

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """A step ended."""
        if done % self.every == 0:
            self.at.append(clocks()[1])


def examples_of(workload: Workload, folder: Path) -> list[Example]:
    """The rows; SFT trains on the chosen response."""
    names = ("chosen", "rejected") if workload.kind == "dpo" else ("chosen",)

    def tokens(ids: Sequence[int]) -> Tokens:
        return np.asarray(ids, np.int32)

    return [Example(tokens(row["prompt"]), tuple(tokens(row[name]) for name in names)) for row in read_token_rows(folder)]


def scorer_of(workload: Workload, folder: Path) -> Scorer:
    """The initial policy, wrapped as the workload says."""
    device = torch.device(workload.device)
    wrapped = wrap(load_model(Policy(str(folder / "model")), device), peft_of(workload), 0, "bench")
    start_adapter(wrapped)
    return Scorer(wrapped, device, DTYPES[workload.dtype]).eval()


def peft_of(workload: Workload) -> Full | LoRA:
    """What is trained."""
    return Full(method="full") if workload.full else LoRA(method="lora", **workload.lora)


def measure(workload: Workload, folder: Path, out: Path) -> Measured:
    """Train all steps; `out` is an empty folder for the curve."""
    scorer, examples = scorer_of(workload, folder), examples_of(workload, folder)
    layout = ready(scorer, peft_of(workload), examples)
    began = clocks()
    objective = objective_of(workload, scorer, examples)
    ended, before_training = clocks(), peak_gb()
    processor = ProcessorTime()
    train(
        Job(
            name=workload.kind,
            scorer=scorer,
            objective=objective,
            plan=[list(range(at, at + workload.batch)) for at in range(0, len(examples), workload.batch)],
            spec=Optimization(learning_rate=workload.learning_rate, schedule="constant", warmup_share=0.0),
            compute=Compute(device=workload.device, dtype=workload.dtype, checkpoint_seconds=1e9, log_every=1),
            out=out,
            progress=processor,
        )
    )
    curve = [json.loads(line) for line in (out / CURVE).read_text().splitlines()]
    return Measured(
        losses=[point["loss"] for point in curve],
        seconds=_between([0.0, *(point["seconds"] for point in curve)]),
        cpu_seconds=_between(processor.at),
        reference_seconds=ended[0] - began[0],
        reference_cpu_seconds=ended[1] - began[1],
        peak_gb=peak_gb(),
        before_training_gb=before_training,
        gpu_gb=torch.cuda.max_memory_allocated() / 1e9 if workload.device == "cuda" else None,
        note=layout,
    )


def objective_of(workload: Workload, scorer: Scorer, examples: Sequence[Example]) -> LanguageModelling | Preference:
    """What is minimised; scoring the reference takes its time here, as in the product before the first step."""
    if workload.kind == "sft":
        return LanguageModelling(examples)
    return Preference(examples, score_branches(scorer, examples, scoring_tokens(scorer.device)), beta=BETA)


def _between(times: Sequence[float]) -> list[float]:
    return [end - start for start, end in itertools.pairwise(times)]


def main() -> None:
    """Measure and write the result where the parent process looks for it."""
    given = arguments()
    out = given.result.with_suffix(".run")
    out.mkdir()
    measure(Workload.read(given.folder), given.folder, out).write(given.result)


if __name__ == "__main__":
    main()
