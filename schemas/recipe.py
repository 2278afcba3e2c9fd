"""The recipe: everything that a run does follows from this document and the content of its inputs.

The stages' own sections live in `schemas/training.py`, `schemas/data.py` and `schemas/evaluation.py`; this file joins them,
and `schemas/recipe_rules.py` holds the rules that reach across sections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from schemas.addresses import refuse_secrets
from schemas.base import Frozen, refused
from schemas.data import ASKED, Data
from schemas.evaluation import Evaluation, Registry
from schemas.fields import AboveZero, Number, Positive
from schemas.filtering import Filtering
from schemas.model import Model, Quantization
from schemas.ppo import PPO
from schemas.reward import RewardTraining
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
    "benchmark": Stage("evaluation"),
    "register": Stage("registry"),
}
"""Every stage by name, in the order in which they run."""


class Compute(Frozen):
    """Where and how often; nothing here but `dtype` and the number of processes can change the bytes of a result."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that trains and evaluates; `auto` takes CUDA when present."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the forward pass; `auto` is bfloat16 on CUDA, else float32; float16 needs CUDA. Weights stay float32."""
    num_processes: Positive = 1
    """Processes of this machine that train together, each on a device of its own: CUDA cards, or shares of the CPU's cores."""
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    """What several processes share: `ddp` nothing, each holds the whole model; `fsdp2` weights, gradients and optimizer."""
    checkpoint_seconds: AboveZero = 30.0
    """Seconds between training checkpoints."""
    log_every: Positive = 10
    """Optimizer steps between two points of a training curve, whose first is that of the first step."""

    @model_validator(mode="after")
    def _float16_has_a_place(self) -> Compute:
        if self.dtype == "float16" and self.device == "cpu":
            raise refused(
                where="compute.dtype",
                found="float16 with device cpu",
                allowed="float32, or bfloat16 where the chip has it",
                remedy="set compute.dtype=auto",
            )
        if self.dtype == "float16" and self.strategy == "fsdp2" and self.num_processes > 1:
            raise refused(
                where="compute.dtype",
                found="float16 with strategy fsdp2",
                allowed="bfloat16 or float32, or strategy ddp",
                remedy="set compute.dtype=bfloat16: its range needs no loss scale",
            )
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
    also: tuple[Literal["wandb", "trackio"], ...] = ()
    """Other trackers that get every number beside MLflow, each by an extra of that name and its own environment variables."""
    system_seconds: Annotated[float, Field(ge=1)] | None = 10.0
    """Seconds between two samples of processor and memory, which MLflow shows beside a stage's curves; null: none."""


class Recipe(Frozen):
    """One declarative run from raw text and preference pairs to a registered model."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    """Name of the run: letters, digits, dot, dash, underscore."""
    seed: Annotated[int, Field(ge=0, lt=2**32), Number] = 0
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
    reward: RewardTraining | None = None
    """Reward model on the preference pairs, trained before alignment and apart from the policy; null = none."""
    alignment: Alignment = NoAlignment()
    """Preference alignment."""
    evaluation: Evaluation = Evaluation()
    """Held-out evaluation and the gates before the registry."""
    registry: Registry | None = None
    """Registered model; null = metrics are logged and nothing is registered."""
    compute: Compute = Compute()
    """Device, arithmetic and cadence."""
    placement: Literal["inline", "deployed"] = "inline"
    """Where stages run: `inline` is this process, `deployed` the work pools that `posttrain deploy` has registered them on."""
    tracking: Tracking = Tracking()
    """MLflow."""

    @property
    def prompts_table(self) -> str:
        """The data set whose prompts PPO and evaluation ask: the first of `ASKED` that there is."""
        return next((name for name in ASKED if getattr(self.data, name) is not None), "instructions")

    @property
    def document(self) -> dict[str, Any]:
        """The recipe as JSON, from which the same one is read again.

        Fields that were left out stay out: in `filtering.rules` a null that is written takes a rule of the preset away.
        """
        return self.model_dump(mode="json", exclude_unset=True)

    @property
    def quantization(self) -> Quantization | None:
        """How the model's weights are held while adapters train on them; null is as they are."""
        return getattr(self.model, "quantization", None)

    @property
    def unpaired(self) -> bool:
        """Whether alignment trains on single answers with a label."""
        return isinstance(self.alignment, DPO) and self.alignment.unpaired

    def section(self, stage: str) -> Any:
        """The settings of a stage, or None where this recipe does not ask for it: `section("align")` is `alignment`."""
        if stage == "filter" and self.pretrain is None:  # which alone reads the corpus
            return None
        if stage == "benchmark" and not self.evaluation.benchmarks:
            return None
        section = getattr(self, STAGES[stage].section)
        return None if isinstance(section, NoAlignment) else section

    def dataset(self, stage: str) -> str | None:
        """The field of `data` that a stage trains on; PPO needs only prompts, and KTO without feedback takes pairs apart."""
        if isinstance(self.section(stage), PPO):
            return self.prompts_table
        if stage == "align" and self.unpaired and (self.data.feedback is not None or self.data.preferences is None):
            return "feedback"
        return STAGES[stage].dataset

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
        from schemas.recipe_rules import problems_of  # which reads the table of stages here

        for problem in problems_of(self):
            raise problem
        return self


def policies(recipe: Recipe) -> tuple[str, ...]:
    """Policies that evaluation compares, the candidate last: `base` stands before SFT, after pretraining."""
    return tuple(dict.fromkeys(("base", *filter(None, map(policy_of, recipe.stages)))))


def policy_of(stage: str) -> str | None:
    """What evaluation calls the policy that a stage makes; None for a stage that makes none."""
    return STAGES[stage].policy
