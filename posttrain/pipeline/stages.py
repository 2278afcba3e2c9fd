"""The table of stages: what decides the key of each, and where its task, its training and its forecast are found.

A row names what lies above this room as `module:function`, so that a stage is added in one place and imports still run one way.
The order of the stages, and what the recipe says about each, is `STAGES` of `schemas/recipe.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from posttrain.runtime.device import dtype_name
from schemas.data import CONTRACTS
from schemas.filtering import SCORED
from schemas.model import ScratchModel
from schemas.ppo import PPO
from schemas.recipe import STAGES, Recipe
from schemas.results import Origin

if TYPE_CHECKING:
    from posttrain.pipeline.chain import Chain

Fields = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class StageWork:
    """One row of the table."""

    version: int
    """Raise it when the stage's code changes the bytes that it writes."""
    fields: Callable[[Recipe, str], Fields]
    """What of the recipe decides the bytes of this stage."""
    inputs: Callable[[Chain, str], tuple[Origin, ...]]
    """What it reads, by content. The stages before it must be finished."""
    task: str
    """Its Prefect task."""
    writes: tuple[str, ...]
    """Names in its folder, with `*` for any characters; a file under another name is not the stage's, and stops a resume."""
    pool: Literal["cpu", "gpu"]
    """The kind of machine that it runs on where stages are deployed."""
    encodes: bool = True
    """Whether it renders text by the chat template, which is then part of its key."""
    train: Callable[[Recipe], str] | None = None
    """For a stage that trains: the function of (`StageRequest`, its section, its rows) that does, here or in other processes."""
    tokens: str | None = None
    """For a stage that computes on a model: the function that counts the tokens which pass it, from which `check` forecasts."""


def _checks(recipe: Recipe, stage: str) -> Fields:
    # A file that breaks off is refused, and leaves no result, unless the recipe keeps what stands before the break.
    # Evaluation sets are inputs by content.
    unsaid = {"decontaminate", *(("incomplete",) if recipe.data.checks.incomplete == "refuse" else ())}
    weighed = {"weights": recipe.data.weights.by} if recipe.data.weights.by != "rows" else {}
    return {"checks": recipe.data.checks.model_dump(mode="json", exclude=unsaid), "holdout": recipe.data.holdout, **weighed}


def _rules(recipe: Recipe, stage: str) -> Fields:
    filtering = recipe.filtering
    return {
        "rules": filtering.resolved().model_dump(mode="json"),
        "lines": filtering.resolved_lines().model_dump(mode="json"),
        "dedup": filtering.dedup.model_dump(mode="json"),
        **({"variant": filtering.variant, "preset": filtering.preset} if filtering.variant != "posttrain" else {}),
        **{name: section.model_dump(mode="json") for name in SCORED if (section := getattr(filtering, name)) is not None},
        "holdout": recipe.data.holdout,
    }


def _training(recipe: Recipe, stage: str) -> Fields:
    """The section, and what decides how the numbers are computed."""
    # The template of a reward model's own base counts by content, not by name; its embeddings stay as they are.
    read = recipe.section(stage).model_dump(mode="json", exclude={"model": {"chat_template", "resize_embeddings"}})
    compute = recipe.compute
    # Several processes add gradients in another order than one does, and one strategy in another than the other.
    several = {"num_processes": compute.num_processes, "strategy": compute.strategy} if compute.num_processes > 1 else {}
    held = {"quantization": recipe.quantization} if recipe.quantization else {}
    return {"seed": recipe.seed, "dtype": dtype_name(compute), STAGES[stage].section: read, **several, **held}


def _pretraining(recipe: Recipe, stage: str) -> Fields:
    """The sizes of a model from scratch as well; any other model is an input by content."""
    sizes = None
    if isinstance(recipe.model, ScratchModel):  # a field that is newer than the keys of many results counts where it is set
        unsaid = {"initializer_range"} if recipe.model.initializer_range is None else set()
        sizes = recipe.model.model_dump(mode="json", exclude=unsaid)
    return {**_training(recipe, stage), "model": sizes}


_OF_THE_CONNECTION = {"key", "allow_http", "timeout_seconds", "retries", "concurrency"}
"""What says how an endpoint is asked, and not what."""
_NOT_MEASURED: Any = {"gates": True, "benchmarks": True, "judge": _OF_THE_CONNECTION}


def _evaluation(recipe: Recipe, stage: str) -> Fields:
    """Gates are no part of what is measured."""
    return {
        "seed": recipe.seed,
        "dtype": dtype_name(recipe.compute),
        "evaluation": recipe.evaluation.model_dump(mode="json", exclude=_NOT_MEASURED),
        "beta": getattr(recipe.alignment, "beta", None),
        "loss": getattr(recipe.alignment, "loss", None),
    }


def _benchmarks(recipe: Recipe, stage: str) -> Fields:
    """A folder of tasks counts by its content."""
    asked = [each.model_dump(mode="json", exclude={"gate", "folder"}) for each in recipe.evaluation.benchmarks]
    return {"seed": recipe.seed, "dtype": dtype_name(recipe.compute), "benchmarks": asked}


def _registered(recipe: Recipe, stage: str) -> Fields:
    """Gates and promotion are no part of what is registered: they are judged anew in every run."""
    exported = {"export": list(recipe.registry.export)} if recipe.registry and recipe.registry.export else {}
    return {"model": recipe.registry.model if recipe.registry else None, **exported}


def _contracts(chain: Chain) -> list[str]:
    """Data sets with a contract that the recipe has, in the order that keys have always had them in."""
    return [name for name in sorted(CONTRACTS) if name in chain.sources]


def _tables(chain: Chain, stage: str) -> tuple[Origin, ...]:
    return (*(chain.source_origin(name) for name in _contracts(chain)), *chain.evaluation_origins(), *chain.weights_origins())


def _corpus(chain: Chain, stage: str) -> tuple[Origin, ...]:
    return (chain.source_origin("corpus"), *chain.filter_origins)


def _start_and_rows(chain: Chain, stage: str) -> tuple[Origin, ...]:
    return (*chain.start_origins(stage), chain.rows_origin(stage))


def _start_rows_and_rewards(chain: Chain, stage: str) -> tuple[Origin, ...]:
    """For PPO what rewards the responses as well."""
    spec = chain.recipe.section(stage)
    sources = spec.sources if isinstance(spec, PPO) else ()
    return (*_start_and_rows(chain, stage), *map(chain.reward_origin, sources))


def _policies_rows_and_judge(chain: Chain, stage: str) -> tuple[Origin, ...]:
    kept = (chain.stored("filter").origin("kept"),) if "filter" in chain.recipe.stages else ()
    held_out = (*kept, *(chain.stored("validate").origin(name) for name in _contracts(chain)))
    return (*chain.start_origins(stage), *held_out, *chain.judge_origins())


def _policies_and_tasks(chain: Chain, stage: str) -> tuple[Origin, ...]:
    return (*chain.start_origins(stage), *chain.task_origins())


def _candidate(chain: Chain, stage: str) -> tuple[Origin, ...]:
    return chain.start_origins(stage)


_TRAINED = ("model", "adapter", "layout.txt", "rows.json", "quarantine.parquet")
_EXPORTED = (
    "README.md", "model.gguf", "checkpoint", "base", "adapter*", "delta.py", "trained.safetensors", "prompts.json",
    "round_trip.json",
)  # fmt: skip
_TRAINERS = "posttrain.training"
_TOKENS = "posttrain.forecast.stage_times"
_ALGORITHMS = {"dpo": f"{_TRAINERS}.dpo:dpo", "kto": f"{_TRAINERS}.kto:kto", "ppo": f"{_TRAINERS}.ppo.stage:ppo"}

WORK: dict[str, StageWork] = {
    "validate": StageWork(
        version=11, fields=_checks, inputs=_tables, task="tasks.data:validate", pool="cpu", encodes=False,
        writes=(*(f"{name}.parquet" for name in CONTRACTS), "quarantine.parquet", "summary.json"),
    ),
    "filter": StageWork(
        version=8, fields=_rules, inputs=_corpus, task="tasks.data:filter", pool="cpu", encodes=False,
        writes=("kept.parquet", "rejected.parquet", "quarantine.parquet", "summary.json"),
    ),
    "pretrain": StageWork(
        version=5, fields=_pretraining, inputs=_start_and_rows, task="tasks.training:pretrain", pool="gpu",
        writes=_TRAINED,
        train=lambda recipe: f"{_TRAINERS}.pretrain:pretrain", tokens=f"{_TOKENS}:pretrain",
    ),
    "sft": StageWork(
        version=7, fields=_training, inputs=_start_and_rows, task="tasks.training:sft", pool="gpu",
        writes=_TRAINED,
        train=lambda recipe: f"{_TRAINERS}.sft:sft", tokens=f"{_TOKENS}:sft",
    ),
    "reward": StageWork(
        version=5, fields=_training, inputs=_start_and_rows, task="tasks.training:reward", pool="gpu",
        writes=(*_TRAINED, "reward", "reward.json"),
        train=lambda recipe: f"{_TRAINERS}.reward:reward", tokens=f"{_TOKENS}:reward",
    ),
    "align": StageWork(
        version=9, fields=_training, inputs=_start_rows_and_rewards, task="tasks.training:align", pool="gpu",
        writes=(*_TRAINED, "reference.safetensors", "on_policy.json"),
        train=lambda recipe: _ALGORITHMS["kto" if recipe.unpaired else recipe.alignment.algorithm], tokens=f"{_TOKENS}:align",
    ),
    "evaluate": StageWork(
        version=10, fields=_evaluation, inputs=_policies_rows_and_judge, task="tasks.evaluation:evaluate", pool="gpu",
        writes=("evaluation.json", "samples.parquet", "pairs.parquet", "rows.json"),
        tokens=f"{_TOKENS}:evaluate",
    ),
    "benchmark": StageWork(
        version=1, fields=_benchmarks, inputs=_policies_and_tasks, task="tasks.evaluation:benchmark", pool="gpu",
        writes=("benchmarks.json", "documents.parquet"),
    ),
    "register": StageWork(
        version=4, fields=_registered, inputs=_candidate, task="tasks.register:register", pool="cpu", writes=_EXPORTED,
    ),
}  # fmt: skip
"""By name of the stage."""
