"""One policy on one benchmark: what lm-eval measures of every document."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from posttrain.evaluation.benchmarks.tasks import load_tasks, rendering
from schemas.benchmarks import Benchmark
from schemas.errors import Refusal

KINDS = {
    "mean": "mean",
    "nanmean": "mean",
    "perplexity": "perplexity",
    "weighted_perplexity": "perplexity",
    "bits_per_byte": "bits",
}
"""By aggregation of lm-eval, how documents make a score; others have no number of a single document."""
BATCH = 8


@dataclass(frozen=True)
class Answers:
    """What one policy scores on each document of a benchmark."""

    metric: str
    kind: str
    """`mean` of values; `perplexity` and `bits` of log-likelihoods, divided by the weights."""
    higher_is_better: bool
    documents: list[str]
    """`TASK/NUMBER`, the number as in the task's own split."""
    values: list[float]
    weights: list[float]
    """Words, bytes, or 1 for each document."""
    shots: int

    def document(self) -> dict[str, Any]:
        """As JSON, from which the same is read again by `Answers(**document)`."""
        return asdict(self)


def answer(benchmark: Benchmark, model: Any, tokenizer: PreTrainedTokenizerBase, dtype: Any, seed: int, where: str) -> Answers:
    """Have a model answer a benchmark.

    Args:
        model: a transformers model, adapters included.
        dtype: arithmetic of the forward pass.
        seed: chooses the documents, where not all are asked, and the examples before a question.
        where: field of the recipe, for refusals.

    Raises:
        Refusal: when the task cannot be loaded, has no such metric, or one that no single document has.
    """
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    tasks = load_tasks(benchmark, seed, where)
    metrics = {name: _metric(task, benchmark.metric, f"{where}.metric") for name, task in tasks.items()}
    chosen = {name: _documents(len(task.eval_docs), benchmark.limit, seed) for name, task in tasks.items()}
    half = None if dtype == torch.float32 else dtype
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH, mixed_precision_dtype=half)
    with rendering(benchmark):
        found: Any = evaluator.evaluate(
            lm=lm, task_dict={"tasks": tasks}, samples=chosen, bootstrap_iters=0, apply_chat_template=benchmark.chat,
            fewshot_as_multiturn=benchmark.chat, confirm_run_unsafe_code=benchmark.allow_code,
        )  # fmt: skip
    return _answers(found["samples"], tasks, metrics, where)


def _documents(count: int, limit: int | None, seed: int) -> list[int]:
    """Which of them are asked, in order: the first ones of a file say nothing of the last."""
    return sorted(random.Random(seed).sample(range(count), min(limit or count, count)))


def _metric(task: Any, wanted: str | None, where: str) -> tuple[str, str]:
    """Its name and the kind of its aggregation."""
    from lm_eval.api.registry import get_aggregation

    aggregations: Mapping[str, Any] = task.aggregation()
    name = (wanted or next(iter(aggregations))).partition(",")[0]
    if name not in aggregations:
        raise Refusal(
            where=where,
            found=f"{name}, which {task.task_name} does not measure",
            allowed=f"one of {', '.join(aggregations)}",
            remedy="choose one of these",
        )
    kinds = {kind for known, kind in KINDS.items() if aggregations[name] is get_aggregation(known)}
    if not kinds:
        raise Refusal(
            where=where,
            found=f"{name} of {task.task_name}, which is a number of all documents together",
            allowed="a metric that every document has, whose difference between two policies is paired",
            remedy=f"choose another of {', '.join(aggregations)}",
        )
    return name, kinds.pop()


def _answers(
    samples: Mapping[str, list[dict[str, Any]]], tasks: Mapping[str, Any], metrics: Mapping[str, tuple[str, str]], where: str
) -> Answers:
    """Of all tasks of a group together, under the first filter where a task has several."""
    metric, kind = next(iter(metrics.values()))
    first = next(iter(tasks.values()))
    rows = [
        (f"{name}/{sample['doc_id']}", *_value(sample[metrics[name][0]]))
        for name, each in samples.items()
        for sample in each
        if sample["filter"] == each[0]["filter"]
    ]
    bad = [document for document, value, _ in rows if not math.isfinite(value)]
    if bad or not rows or len(set(metrics.values())) > 1:
        raise Refusal(
            where=f"{where}.metric",
            found=f"no finite {metric} for {bad[0]}" if bad else f"{len(rows)} documents with {sorted(set(metrics.values()))}",
            allowed="a finite number for every document, of one metric",
            remedy="name the metric, or another task",
        )
    names, values, weights = map(list, zip(*rows, strict=True))
    return Answers(
        metric, kind, bool(first.higher_is_better()[metric]), names, values, weights, int(first.get_config("num_fewshot") or 0)
    )


def _value(given: Any) -> tuple[float, float]:
    """A document's number and weight: of a perplexity its log-likelihood, and its words or bytes."""
    if isinstance(given, tuple | list):
        return float(given[0]), float(given[1])
    return float(given), 1.0
