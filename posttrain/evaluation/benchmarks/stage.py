"""The stage of benchmarks: every policy of a run answers each task, and what one has answered before is not asked again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from posttrain.checkpoints.load import load_model, load_tokenizer
from posttrain.evaluation.benchmarks.harness import Answers, answer
from posttrain.evaluation.benchmarks.numbers import of_benchmark
from posttrain.models.policy import Policy
from posttrain.pipeline.benchmark_folder import task_origin
from posttrain.pipeline.chain import Chain
from posttrain.runtime.device import resolve_device, resolve_dtype
from posttrain.runtime.peak_memory import give_back, measured
from posttrain.runtime.progress import Progress
from posttrain.runtime.store import Built
from posttrain.runtime.trees import read_regular
from posttrain.runtime.writing import write_atomically
from schemas.benchmarks import Benchmark
from schemas.estimates import Estimate, flattened

VERSION = 1  # of the answers in the cache: raise it when the same benchmark gives other ones


@dataclass(frozen=True)
class _Kept:
    """The answers of one policy to one benchmark in the cache of a store, by the content of both."""

    path: Path

    def read(self) -> Answers | None:
        """None where there are none, or they are damaged."""
        with suppress(OSError, ValueError, TypeError):
            return Answers(**json.loads(read_regular(self.path)))
        return None

    def write(self, answers: Answers) -> None:
        """Keep them."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps(answers.document()))


@measured
def benchmark(chain: Chain, out: Path, progress: Progress) -> Built:
    """Score every policy on every benchmark of the recipe; writes `benchmarks.json` and `documents.parquet`.

    Raises:
        Refusal: when a task cannot be loaded or measured.
    """
    asked, digests = chain.recipe.evaluation.benchmarks, chain.policy_digests()
    found: dict[str, dict[str, Answers]] = {each.task: {} for each in asked}
    for name, policy in chain.policies().items():
        kept = [_kept(chain, each, digests[name]) for each in asked]
        _answer_all(chain, policy, name, kept, found, progress)
        give_back()
    numbers: dict[str, Estimate] = {}
    entries: list[dict[str, Any]] = []
    for task, answers in found.items():
        new, entry = of_benchmark(task, answers)
        numbers, entries = numbers | new, [*entries, entry]
    (out / "benchmarks.json").write_text(json.dumps({"benchmarks": entries}, indent=1))
    pl.concat([_table(task, answers) for task, answers in found.items()], how="diagonal").write_parquet(out / "documents.parquet")
    return Built(flattened(numbers), {"benchmarks": "benchmarks.json", "documents": "documents.parquet"})


def _answer_all(
    chain: Chain, policy: Policy, name: str, kept: list[_Kept], found: dict[str, dict[str, Answers]], progress: Progress
) -> None:
    """All benchmarks by one policy, which is loaded where one of them is open."""
    recipe, model = chain.recipe, None
    for index, (each, place) in enumerate(zip(recipe.evaluation.benchmarks, kept, strict=True)):
        answers = place.read()
        if answers is None:
            progress.note(f"benchmark {name}: {each.task}")
            model = model or load_model(policy, resolve_device(recipe.compute)).requires_grad_(False).eval()
            where = f"evaluation.benchmarks.{index}"
            answers = answer(each, model, load_tokenizer(policy), resolve_dtype(recipe.compute), recipe.seed, where)
            place.write(answers)
        found[each.task][name] = answers


def _kept(chain: Chain, spec: Benchmark, policy: str) -> _Kept:
    from posttrain.runtime.device import dtype_name

    identity = [
        VERSION, importlib.metadata.version("lm_eval"), policy, spec.model_dump(mode="json", exclude={"gate", "folder"}),
        task_origin(spec.folder).digest if spec.folder else None, chain.recipe.seed, dtype_name(chain.recipe.compute),
    ]  # fmt: skip
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return _Kept(chain.store.root / "cache" / "benchmarks" / f"{key}.json")


def _table(task: str, answers: Mapping[str, Answers]) -> pl.DataFrame:
    """One line per document: what every policy scores on it."""
    some = next(iter(answers.values()))
    columns: dict[str, Any] = {"benchmark": [task] * len(some.documents), "document": some.documents, "weight": some.weights}
    return pl.DataFrame(columns | {name: each.values for name, each in answers.items()})
