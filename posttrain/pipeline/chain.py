"""The chain of stages of one recipe: what each stage reads, and therefore its key in the store.

A stage's key needs the digests of its inputs, so it is known as soon as the stages before it are finished. Nothing is passed
between stages but the recipe and the store: every process finds the same results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.data.chat_templates import template_digest
from posttrain.data.sources import SourceFile, resolve, source_digest
from posttrain.models.policy import Policy, folder_digest, model_origin, policy_after, source_policy
from posttrain.rewards.judge import function_origin, judge_origin
from posttrain.runtime.device import dtype_name
from posttrain.runtime.store import StageKey, Store, Stored
from schemas.evaluation import RewardModelJudge
from schemas.model import GgufModel, LocalModel, Model, RegistryModel, ScratchModel
from schemas.ppo import PPO, FunctionReward, RegistryReward, RewardSource, StageReward
from schemas.recipe import Recipe, policies
from schemas.results import Metrics, Origin
from schemas.reward import ScratchEncoder
from schemas.secrets import without_credentials

# Raise a stage's number when its code changes the bytes that it writes.
VERSIONS = {"validate": 1, "filter": 1, "pretrain": 4, "sft": 5, "reward": 2, "align": 6, "evaluate": 6, "register": 2}
TRAINING = ("pretrain", "sft", "align")  # of the policy, each on the one before


Fetch = Callable[[str], Path]
"""From the URI of a registered version to a folder with its checkpoint."""


def no_registry(uri: str) -> Path:
    """Stands for the registry where there is none: only `tasks` knows MLflow.

    Raises:
        LookupError: always.
    """
    raise LookupError(f"{uri}: this chain was made without a registry")


class Chain:
    """One recipe on one store, with its inputs as they were when first looked at."""

    def __init__(self, recipe: Recipe, store: Store, fetch: Fetch = no_registry) -> None:
        self.recipe, self.store, self.fetch = recipe, store, fetch

    @functools.cached_property
    def model(self) -> Model:
        """`recipe.model`; a registered version is the folder that it was fetched to, a GGUF file the one it was converted to."""
        match given := self.recipe.model:
            case RegistryModel():
                folder = self.fetch(given.uri)
            case GgufModel():
                from posttrain.checkpoints.model_cache import converted  # which imports torch

                file, (origin,) = Path(given.path).expanduser().resolve(), self._model_origin
                folder = converted(file, origin.digest, self.store.root / "cache" / "gguf")
            case _:
                return given
        return LocalModel(source="local", path=str(folder), chat_template=given.chat_template)

    @functools.cached_property
    def source(self) -> Policy:
        """The policy that `model` names, with its chat template as it was when first looked at."""
        return source_policy(self.model)

    def files(self, source: str) -> list[SourceFile]:
        """The files of `data.<source>`."""
        return resolve(getattr(self.recipe.data, source), f"data.{source}", self.store.root / "cache")

    @functools.cached_property
    def sources(self) -> dict[str, list[SourceFile]]:
        """Files of every data source that a stage of this recipe reads."""
        wanted = {"corpus": "filter" in self.recipe.stages, "instructions": True, "preferences": True}
        return {name: self.files(name) for name, used in wanted.items() if used and getattr(self.recipe.data, name) is not None}

    @functools.cache  # noqa: B019  # a chain lives as long as its run
    def source_origin(self, source: str) -> Origin:
        """A data source by content."""
        return Origin(name=f"data.{source}", digest=source_digest(self.sources[source]), location=self._address(source))

    def _address(self, source: str) -> str:
        return without_credentials(getattr(self.recipe.data, source))

    def identity(self, stage: str) -> StageKey:
        """Everything that decides the bytes of a stage. The stages before it must be finished."""
        fields = _FIELDS[stage](self.recipe) | self._chat_template(stage)
        return StageKey(stage, VERSIONS[stage], fields, _INPUTS[stage](self))

    def _chat_template(self, stage: str) -> dict[str, str]:
        """The template that a recipe gives, by content, in the keys of stages that encode; nothing where it gives none."""
        if stage in ("validate", "filter"):
            return {}
        template = self.reward_start().chat_template if stage == "reward" else self.source.chat_template
        return {"chat_template": template_digest(template)} if template is not None else {}

    def stored(self, stage: str) -> Stored:
        """The finished result of a stage of this recipe.

        Raises:
            LookupError: when the stage has not run on this store.
        """
        result = self.store.finished(self.identity(stage))
        if result is None:
            raise LookupError(f"stage {stage} of recipe {self.recipe.name} is not finished in {self.store.root}: run it first")
        return result

    @functools.cached_property
    def _model_origin(self) -> tuple[Origin, ...]:
        """By content, of a GGUF its own; a registered version is located by its URI, from which lineage walks on."""
        given = self.recipe.model
        if isinstance(given, RegistryModel):
            return tuple(origin.model_copy(update={"location": given.uri}) for origin in model_origin(self.model))
        return model_origin(given)

    def trained_before(self, stage: str) -> list[Stored]:
        """Results of the training stages before `stage`."""
        done = TRAINING[: TRAINING.index(stage)] if stage in TRAINING else TRAINING
        return [self.stored(name) for name in done if name in self.recipe.stages]

    def policy_before(self, stage: str) -> Policy:
        """The policy from which `stage` starts."""
        return policy_after(self.source, self.trained_before(stage))

    def policy_origins(self, stage: str) -> tuple[Origin, ...]:
        """The weights from which `stage` starts, by content."""
        return (*self._model_origin, *(stored.origin() for stored in self.trained_before(stage)))

    def reward_start(self) -> Policy:
        """From where the reward model has its weights; one from scratch has the tokenizer of the policy before alignment."""
        given = self.recipe.reward.model if self.recipe.reward else None
        if given is None or isinstance(given, ScratchEncoder):
            return self.policy_before("align")
        return source_policy(given, "reward.model")

    def reward_origins(self) -> tuple[Origin, ...]:
        """The same by content."""
        given = self.recipe.reward.model if self.recipe.reward else None
        if given is None or isinstance(given, ScratchEncoder):
            return self.policy_origins("align")
        return tuple(origin.model_copy(update={"name": "reward_model"}) for origin in model_origin(given))

    def policies(self) -> dict[str, Policy]:
        """The policies that evaluation compares, the candidate last."""
        after = {"base": "sft", "sft": "align", "aligned": "evaluate"}
        return {name: self.policy_before(after[name]) for name in policies(self.recipe)}

    def reward_origin(self, source: RewardSource) -> Origin:
        """What rewards answers, by content."""
        match source:
            case StageReward():
                return self.stored("reward").origin()
            case FunctionReward():
                return function_origin(source.name, "alignment.reward")
            case RegistryReward():
                folder = self.fetch(source.uri)
                return Origin(name="alignment.reward", digest=folder_digest(folder), location=source.uri)

    def reward_folders(self) -> dict[str, Path]:
        """Folders of the reward models that PPO asks for: of the stage under `model`, of registered ones under their URI."""
        spec = self.recipe.alignment
        sources = spec.sources if isinstance(spec, PPO) else ()
        registered = {source.uri: self.fetch(source.uri) for source in sources if isinstance(source, RegistryReward)}
        own = any(isinstance(source, StageReward) for source in sources)
        return registered | ({"model": self.output("reward", "reward")} if own else {})

    def judging_model(self) -> Path | None:
        """Folder of the stage reward where evaluation judges by it."""
        own = isinstance(self.recipe.evaluation.judge, RewardModelJudge)
        return self.output("reward", "reward") if own else None

    def judge_origins(self) -> tuple[Origin, ...]:
        """The judge by content, where there is one."""
        match self.recipe.evaluation.judge:
            case None:
                return ()
            case RewardModelJudge():
                return (self.stored("reward").origin(),)
            case judge:
                return (judge_origin(judge),)

    def measured(self) -> Metrics:
        """What gates and promotion go by: evaluation's numbers, and by how much the last training lowered the held-out loss."""
        numbers = dict(self.stored("evaluate").result.metrics)
        trained = self.trained_before("register")
        course = trained[-1].result.metrics if trained else {}
        if "validation_loss_start" in course and "validation_loss" in course:
            numbers["validation_loss_falls"] = course["validation_loss_start"] - course["validation_loss"]
        return numbers

    def output(self, stage: str, output: str) -> Path:
        """A named output of a finished stage."""
        return self.stored(stage).path(output)


_FIELDS: dict[str, Callable[[Recipe], dict[str, Any]]] = {
    "validate": lambda r: {"checks": r.data.checks.model_dump(mode="json"), "holdout": r.data.holdout},
    "filter": lambda r: {
        "rules": r.filtering.resolved().model_dump(mode="json"),
        "dedup": r.filtering.dedup.model_dump(mode="json"),
        "holdout": r.data.holdout,
    },
    "pretrain": lambda r: {**_training(r, "pretrain"), "model": _new_model(r)},
    "sft": lambda r: _training(r, "sft"),
    "reward": lambda r: _training(r, "reward"),
    "align": lambda r: _training(r, "alignment"),
    "evaluate": lambda r: {
        "seed": r.seed,
        "dtype": _dtype(r),
        "evaluation": r.evaluation.model_dump(mode="json", exclude={"gates"}),
        "beta": getattr(r.alignment, "beta", None),
        "loss": getattr(r.alignment, "loss", None),
    },
    # Gates and promotion are no part of what is registered: they are judged anew in every run.
    "register": lambda r: {"model": r.registry.model if r.registry else None},
}


def _training(recipe: Recipe, section: str) -> dict[str, Any]:
    # The template of a reward model's own base counts by content, not by name.
    read = getattr(recipe, section).model_dump(mode="json", exclude={"model": {"chat_template"}})
    fields = {"seed": recipe.seed, "dtype": _dtype(recipe), section: read}
    return fields | _processes(recipe) | _quantization(recipe)


def _quantization(recipe: Recipe) -> dict[str, Any]:
    return {"quantization": recipe.quantization} if recipe.quantization else {}


def _processes(recipe: Recipe) -> dict[str, Any]:
    """Several processes add gradients in another order than one does, and one strategy in another than the other."""
    compute = recipe.compute
    several = {"num_processes": compute.num_processes, "strategy": compute.strategy}
    return several if compute.num_processes > 1 else {}


def _new_model(recipe: Recipe) -> dict[str, Any] | None:
    """Sizes of a model from scratch; any other is an input by content."""
    return recipe.model.model_dump(mode="json") if isinstance(recipe.model, ScratchModel) else None


def _dtype(recipe: Recipe) -> str:
    """The arithmetic that `auto` means here: results of two kinds of devices must not share a key."""
    return dtype_name(recipe.compute)


def _held_out_origins(chain: Chain) -> tuple[Origin, ...]:
    tables = [name for name in ("instructions", "preferences") if name in chain.sources]
    kept = (chain.stored("filter").origin("kept"),) if "filter" in chain.recipe.stages else ()
    return (*kept, *(chain.stored("validate").origin(name) for name in tables))


def _rows_of_alignment(chain: Chain) -> tuple[Origin, ...]:
    """Pairs; for PPO prompts, and what rewards the answers."""
    rows = chain.stored("validate").origin(chain.recipe.prompts_table)
    spec = chain.recipe.alignment
    sources = spec.sources if isinstance(spec, PPO) else ()
    return (rows, *map(chain.reward_origin, sources))


_INPUTS: dict[str, Callable[[Chain], tuple[Origin, ...]]] = {
    "validate": lambda c: tuple(c.source_origin(name) for name in ("instructions", "preferences") if name in c.sources),
    "filter": lambda c: (c.source_origin("corpus"),),
    "pretrain": lambda c: (*c.policy_origins("pretrain"), c.stored("filter").origin("kept")),
    "sft": lambda c: (*c.policy_origins("sft"), c.stored("validate").origin("instructions")),
    "reward": lambda c: (*c.reward_origins(), c.stored("validate").origin("preferences")),
    "align": lambda c: (*c.policy_origins("align"), *_rows_of_alignment(c)),
    "evaluate": lambda c: (*c.policy_origins("evaluate"), *_held_out_origins(c), *c.judge_origins()),
    "register": lambda c: c.policy_origins("register"),
}
