"""How many tokens pass the model in the stage benchmark: some documents of each task are rendered and counted."""

from __future__ import annotations

import contextlib
from typing import Any

from transformers import PreTrainedTokenizerBase

from posttrain.evaluation.benchmarks.tasks import load_tasks, rendering
from schemas.benchmarks import Benchmark
from schemas.errors import Refusal
from schemas.recipe import Recipe, policies

RENDERED = 16  # documents of a task whose length is counted
GENERATED = 256  # tokens of an answer that is drawn, where the task names no other number


def benchmark_tokens(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> tuple[float, float]:
    """Tokens that are scored and tokens that are drawn, over all benchmarks and policies.

    A benchmark whose data are not on this machine counts nothing: the stage itself may fetch them.
    """
    scored = drawn = 0.0
    for index, each in enumerate(recipe.evaluation.benchmarks):
        with contextlib.suppress(Refusal):
            for task in load_tasks(each, recipe.seed, f"evaluation.benchmarks.{index}").values():
                more = _of_task(each, task, tokenizer)
                scored, drawn = scored + more[0], drawn + more[1]
    number = len(policies(recipe))
    return number * scored, number * drawn


def _of_task(benchmark: Benchmark, task: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[float, float]:
    """Of one policy. The examples before a question are about as long as the question with its answer."""
    documents = task.eval_docs
    count, shots = min(benchmark.limit or len(documents), len(documents)), int(task.get_config("num_fewshot") or 0)
    some = [documents[at * len(documents) // RENDERED] for at in range(RENDERED)] if len(documents) > RENDERED else [*documents]
    with rendering(benchmark):
        requests = [_requests(task, document) for document in some]
    tokens = sum(len(tokenizer(text)["input_ids"]) for texts in requests for text in texts) / max(len(some), 1)
    new = 0.0
    if task.OUTPUT_TYPE == "generate_until":
        new = float((task.get_config("generation_kwargs") or {}).get("max_gen_toks", GENERATED))
    return count * (1 + shots) * tokens, count * new


def _requests(task: Any, document: Any) -> list[str]:
    """What a policy reads of a document: the question once for each choice."""
    question, answer = str(task.doc_to_text(document)), task.doc_to_target(document)
    if task.OUTPUT_TYPE == "multiple_choice":
        return [f"{question} {choice}" for choice in task.doc_to_choice(document)]
    return [question] if task.OUTPUT_TYPE == "generate_until" else [f"{question} {answer}"]
