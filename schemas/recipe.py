"""The recipe: everything that a run does follows from this document and the content of its inputs.

The stages' own sections live in `schemas/training.py`, `schemas/data.py` and `schemas/evaluation.py`; this file joins them and
holds the rules that reach across sections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.addresses import refuse_secrets
from schemas.base import Frozen, refused
from schemas.data import Data, Filtering
from schemas.evaluation import Evaluation, Registry, RewardModelJudge
from schemas.model import Model, Quantization
from schemas.ppo import PPO, StageReward
from schemas.reward import RewardModel
from schemas.training import DPO, SFT, NoAlignment, Pretrain

Alignment = Annotated[DPO | PPO | NoAlignment, Field(discriminator="algorithm")]


class Stage(NamedTuple):
    """What the recipe says about a stage; how it is keyed, built and forecast is in `posttrain/pipeline/stages.py`."""

    section: str
    """Field of the recipe with the stage's settings; a recipe without it does not have the stage."""
    dataset: str | None = None
    """Field of `data` that it trains on; None for a stage that trains nothing."""
    policy: str | None = None
    """What evaluation calls the policy that it makes; None for a stage that makes none."""


STAGES = {
    "validate": Stage("data"),
    "filter": Stage("filtering"),
    "pretrain": Stage("pretrain", "corpus", "base"),
    "sft": Stage("sft", "instructions", "sft"),
    "reward": Stage("reward", "preferences"),
    "align": Stage("alignment", "preferences", "aligned"),
    "evaluate": Stage("evaluation"),
    "register": Stage("registry"),
}
"""Every stage by name, in the order in which they run."""


class Compute(Frozen):
    """Where and how often; nothing here but `dtype` and the number of processes can change the bytes of a result."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that trains and evaluates; `auto` takes CUDA when present."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the forward pass; `auto` is bfloat16 on CUDA, else float32; float16 needs CUDA. Weights stay float32."""
    num_processes: Annotated[int, Field(ge=1)] = 1
    """Processes of this machine that train together, each on a device of its own: CUDA cards, or shares of the CPU's cores."""
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    """What several processes share: `ddp` nothing, each holds the whole model; `fsdp2` weights, gradients and optimizer."""
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Seconds between training checkpoints."""
    log_every: Annotated[int, Field(ge=1)] = 10
    """Optimizer steps between two points of a training curve, whose first is that of the first step."""

    @model_validator(mode="after")
    def _float16_has_a_place(self) -> Compute:
        if self.dtype == "float16" and self.device == "cpu":
            raise refused("compute.dtype", "float16 with device cpu", "float32, or bfloat16 where the chip has it",
                          "set compute.dtype=auto")  # fmt: skip
        if self.dtype == "float16" and self.strategy == "fsdp2" and self.num_processes > 1:
            raise refused("compute.dtype", "float16 with strategy fsdp2", "bfloat16 or float32, or strategy ddp",
                          "set compute.dtype=bfloat16: its range needs no loss scale")  # fmt: skip
        return self


class Tracking(Frozen):
    """Where MLflow keeps runs and registered models."""

    uri: str | None = None
    """MLflow tracking URI; null is an SQLite file in the store. `${NAME}` stands for an environment variable; a password or token
    written out is refused."""
    experiment: Annotated[str, Field(min_length=1)] = "posttrain"
    """MLflow experiment name."""
    rows: Literal["none", "sample", "all"] = "sample"
    """Rows of your data and responses that MLflow gets (quarantine, samples, the pages of `report.html`): `none`, at most 100 of
    each table, or `all`. The store has all of them."""


class Recipe(Frozen):
    """One declarative run from raw text and preference pairs to a registered model."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    """Name of the run: letters, digits, dot, dash, underscore."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of every random choice: initialisation, order, sampling."""
    model: Model
    """Where the weights start."""
    data: Data
    """Inputs and their contracts."""
    filtering: Filtering = Filtering()
    """Rules for the pretraining corpus."""
    pretrain: Pretrain | None = None
    """Language modelling on the filtered corpus; null = none."""
    sft: SFT | None = None
    """Supervised fine-tuning on the instructions; null = none."""
    reward: RewardModel | None = None
    """Reward model on the preference pairs, trained before alignment and apart from the policy; null = none."""
    alignment: Alignment = NoAlignment()
    """Preference alignment."""
    evaluation: Evaluation = Evaluation()
    """Held-out evaluation and the gates before the registry."""
    registry: Registry | None = None
    """Registered model; null = metrics are logged and nothing is registered."""
    compute: Compute = Compute()
    """Device, arithmetic and cadence."""
    placement: Literal["inline"] = "inline"
    """Where stages run: `inline` is this process."""
    tracking: Tracking = Tracking()
    """MLflow."""

    @property
    def prompts_table(self) -> str:
        """The data set whose prompts PPO answers: the preferences where there are some, else the instructions."""
        return "preferences" if self.data.preferences is not None else "instructions"

    @property
    def quantization(self) -> Quantization | None:
        """How the model's weights are held while adapters train on them; null is as they are."""
        return getattr(self.model, "quantization", None)

    def section(self, stage: str) -> Any:
        """The settings of a stage, or None where this recipe does not ask for it: `section("align")` is `alignment`."""
        if stage == "filter" and self.pretrain is None:  # which alone reads the corpus
            return None
        section = getattr(self, STAGES[stage].section)
        return None if isinstance(section, NoAlignment) else section

    def dataset(self, stage: str) -> str | None:
        """The field of `data` that a stage trains on; PPO needs only prompts."""
        return self.prompts_table if isinstance(self.section(stage), PPO) else STAGES[stage].dataset

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages this recipe asks for, in order."""
        return tuple(stage for stage in STAGES if self.section(stage) is not None)

    @model_validator(mode="before")
    @classmethod
    def _holds_no_secret(cls, given: Any) -> Any:
        """First of all, so that no other message quotes one."""
        if isinstance(given, Mapping):
            refuse_secrets(given)
        return given

    @model_validator(mode="after")
    def _every_consumer_is_fed(self) -> Recipe:
        for problem in (*_missing_inputs(self), *_impossible_gates(self), *_does_not_fit(self), *_quantised(self)):
            raise problem
        return self


def _missing_inputs(recipe: Recipe) -> list[PydanticCustomError]:
    """Stages that are asked for without what they read."""
    reads = {stage: source for stage in recipe.stages if (source := recipe.dataset(stage))}
    problems = [
        refused(f"data.{source}", "null", f"a source, since the stage {stage} reads it",
                f"set data.{source}, or remove the stage")
        for stage, source in reads.items()
        if getattr(recipe.data, source) is None
    ]  # fmt: skip
    if recipe.model.source == "scratch" and recipe.pretrain is None:
        problems.append(
            refused(
                "pretrain",
                "null with model.source scratch",
                "a pretrain section",
                "add pretrain, or start from model.source hub or local",
            )
        )
    if not reads:
        problems.append(refused("sft", "a recipe that trains nothing", "at least one of pretrain, sft, reward, alignment",
                                "add the stage that you want"))  # fmt: skip
    if recipe.data.instructions is None and recipe.data.preferences is None:
        problems.append(
            refused(
                "data.instructions",
                "null, and data.preferences null",
                "one of the two",
                "evaluation needs held-out prompts: give instructions or preferences",
            )
        )
    return problems


def _impossible_gates(recipe: Recipe) -> list[PydanticCustomError]:
    """Gates and promotion metrics on numbers that this recipe never measures."""
    opponents = policies(recipe)[:-1]
    wins = {f"win_rate_vs_{name}" for name in opponents}
    measured = wins if recipe.evaluation.judge else set()
    measured = measured | ({"perplexity_ratio_vs_base"} if opponents else set())
    measured |= {"kl_per_token"} if "align" in recipe.stages else set()
    measured |= {"preference_accuracy"} if "align" in recipe.stages and recipe.data.preferences else set()
    trains = any(map(_policy_of, recipe.stages)) and not isinstance(recipe.alignment, PPO)  # PPO: no such loss
    measured |= {"validation_loss_falls"} if trains else set()
    wanted = {f"evaluation.gates.{name}": name for name in recipe.evaluation.gates.given()}
    problems = [_unmeasured(where, name, measured, wins) for where, name in wanted.items() if name not in measured]
    promotes = measured & {*wins, "preference_accuracy"} | ({"validation_loss"} if trains and opponents else set())
    if recipe.registry and recipe.registry.promote_on and recipe.registry.promote_on not in promotes:
        problems.append(_unmeasured("registry.promote_on", recipe.registry.promote_on, promotes, wins))
    return problems


def _unmeasured(where: str, name: str, measured: set[str], wins: set[str]) -> PydanticCustomError:
    """A refusal of one of them; a win rate may lack nothing but a judge."""
    remedy = "set evaluation.judge: a function or a reward model" if name in wins else "remove it, or add the stage that it is of"
    return refused(where, name, f"metrics that this recipe measures: {', '.join(sorted(measured)) or 'none'}", remedy)


def _cannot_reward(recipe: Recipe) -> list[PydanticCustomError]:
    """Sources of rewards that this recipe does not have."""
    if not isinstance(recipe.alignment, PPO) or recipe.reward is not None:
        return []
    return [
        refused(f"alignment.{field}", "source model, and no section reward", "a section reward, or source function or registry",
                "add reward: {}, which trains a reward model on data.preferences")
        for field in ("reward", "monitor")
        if any(isinstance(source, StageReward) for source in getattr(recipe.alignment, field))
    ]  # fmt: skip


def _does_not_fit(recipe: Recipe) -> list[PydanticCustomError]:
    """Settings that are fine alone and not together."""
    problems = [*_cannot_reward(recipe)]
    if isinstance(recipe.alignment, PPO) and recipe.compute.num_processes > 1:
        problems.append(refused("compute.num_processes", f"{recipe.compute.num_processes} with alignment.algorithm ppo", "1",
                                "set compute.num_processes=1: PPO trains on one device"))  # fmt: skip
    longest = recipe.model.max_length if recipe.model.source == "scratch" else None
    wanted = {
        "pretrain.context": recipe.pretrain.context if recipe.pretrain else 0,
        "sft.max_length": recipe.sft.max_length if recipe.sft else 0,
        "reward.max_length": recipe.reward.max_length if recipe.reward and recipe.reward.model is None else 0,
        "alignment.max_length": getattr(recipe.alignment, "max_length", 0),
    }
    for where, tokens in wanted.items():
        if longest is not None and tokens > longest:
            problems.append(refused(where, f"{tokens} with model.max_length {longest}", f"at most {longest}",
                                    "lower it, or raise model.max_length"))  # fmt: skip
    if recipe.registry and getattr(recipe.model, "trust_remote_code", False):
        problems.append(refused("model.trust_remote_code", "true with a registry section", "false, or registry null",
                                "consumers load registered models without the model's own code"))  # fmt: skip
    if isinstance(recipe.evaluation.judge, RewardModelJudge) and recipe.reward is None:
        problems.append(refused("evaluation.judge.source", "reward_model, and reward null", "function, or a reward section",
                                "add the section reward, or name a function"))  # fmt: skip
    if recipe.registry and recipe.registry.reward_model and recipe.reward is None:
        problems.append(refused("registry.reward_model", f"{recipe.registry.reward_model}, and reward null",
                                "null, or a reward section", "add the section reward, or remove reward_model"))  # fmt: skip
    if recipe.registry and recipe.registry.reward_model == recipe.registry.model:
        problems.append(refused("registry.reward_model", f"{recipe.registry.model}, the name of the policy", "a name of its own",
                                "choose another name"))  # fmt: skip
    problems += [
        refused(f"evaluation.gates.{name}.lower_bound_above", "a bound on an interval", "min or max: this metric has no interval",
                f"use {instead}")
        for name, instead in (("perplexity_ratio_vs_base", "max"), ("validation_loss_falls", "min"))
        if (gate := getattr(recipe.evaluation.gates, name)) and gate.lower_bound_above is not None
    ]  # fmt: skip
    return problems


def _quantised(recipe: Recipe) -> list[PydanticCustomError]:
    """What was not built for a model whose weights are held in fewer bits."""
    conflicts = {
        "pretrain": (recipe.pretrain is not None, "a section", "null: pretraining trains every weight"),
        "reward": (recipe.reward is not None, "a section", "null"),
        "alignment.algorithm": (recipe.alignment.algorithm == "ppo", "ppo", "dpo or none"),
        "compute.num_processes": (recipe.compute.num_processes > 1, str(recipe.compute.num_processes), "1"),
    }
    return [
        refused(where, f"{found} with model.quantization {recipe.quantization}", allowed, "change it, or set quantization=null")
        for where, (given, found, allowed) in conflicts.items()
        if given and recipe.quantization
    ]


def policies(recipe: Recipe) -> tuple[str, ...]:
    """Policies that evaluation compares, the candidate last: `base` stands before SFT, after pretraining."""
    return tuple(dict.fromkeys(("base", *filter(None, map(_policy_of, recipe.stages)))))


def _policy_of(stage: str) -> str | None:
    return STAGES[stage].policy
