"""What rules out a reward model before anything trains: its architecture, its method, its lengths."""

from __future__ import annotations

from typing import Any

from posttrain.models.policy import source_policy
from posttrain.peft.methods import ENCODER, ENCODER_DECODER, METHODS
from posttrain.pipeline.chain import Chain
from schemas.errors import Refusal
from schemas.judge import RewardModelJudge
from schemas.model import ScratchModel
from schemas.ppo import PPO, StageReward
from schemas.recipe import Recipe
from schemas.reward import RewardTraining, ScratchEncoder

FIELD = "reward.model"


def check_reward(chain: Chain) -> None:
    """Refuse a reward section that cannot work with the models that the recipe names.

    Raises:
        Refusal: for the first reason.
    """
    spec, registry = chain.recipe.reward, chain.recipe.registry
    if spec is None:
        return
    if isinstance(spec.model, ScratchEncoder):
        _check_answers(chain.recipe, spec.max_length)  # which is its table of positions
        return
    if registry and registry.reward_model and not METHODS[spec.peft.method].merges:
        raise Refusal(
            where="reward.peft.method",
            found=f"{spec.peft.method}, which cannot be merged, with registry.reward_model",
            allowed=_merging(),
            remedy="consumers load a plain checkpoint: choose one of these, or set registry.reward_model=null",
        )
    if spec.model is None:
        _check_below(chain.recipe)
    given = _start(chain)
    if not isinstance(given, ScratchModel) and source_policy(given).adapters:
        raise Refusal(
            where=FIELD,
            found="a model with an adapter that cannot be merged",
            allowed="a plain checkpoint",
            remedy="name another model",
        )
    config = reward_config(chain)
    check_start(spec, config)
    _check_answers(chain.recipe, readable_by(config))


def _check_answers(recipe: Recipe, limit: int) -> None:
    """A model that cannot read the longest answers would judge them by their start alone."""
    asked = {}
    if isinstance(recipe.alignment, PPO) and any(isinstance(source, StageReward) for source in recipe.alignment.sources):
        asked["alignment.max_new_tokens"] = recipe.alignment.max_new_tokens
    if isinstance(recipe.evaluation.judge, RewardModelJudge):
        asked["evaluation.max_new_tokens"] = recipe.evaluation.max_new_tokens
    for where, tokens in asked.items():
        if tokens >= limit:
            raise Refusal(
                where=where,
                found=f"{tokens} with a reward model that reads at most {limit}, prompt and answer together",
                allowed=f"less than {limit}",
                remedy="lower it, or train a reward model that reads more",
            )


def readable_by(config: Any) -> int:
    """Tokens of a prompt with its answer that a reward model can read; a decoder's layouts put a token after the last one."""
    from posttrain.models.architectures import longest_sequence
    from posttrain.models.blocks import architecture

    return longest_sequence(config) - (architecture(config) != ENCODER)


def _start(chain: Chain) -> Any:
    """The section of the model that a reward model starts as."""
    spec = chain.recipe.reward
    return spec.model if spec and spec.model and not isinstance(spec.model, ScratchEncoder) else chain.model


def reward_config(chain: Chain) -> Any:
    """The transformers config of the checkpoint that a reward model starts as."""
    from posttrain.checkpoints.load import load_config, scratch_config

    given = _start(chain)
    return scratch_config(given, given.vocab_size) if isinstance(given, ScratchModel) else load_config(source_policy(given))


def check_start(spec: RewardTraining, config: Any) -> None:
    """Refuse a section on a model with this config.

    Raises:
        Refusal: for the first reason.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    from posttrain.models.blocks import architecture
    from posttrain.peft.check import MethodUse, check_method

    kind, remedy = architecture(config), "name another model: reward.model hub, local, or scratch (a small BERT)"
    if kind == ENCODER_DECODER:
        raise Refusal(
            where=FIELD,
            found=f"{config.model_type}, an encoder-decoder, which reads no prompt with its response as one text",
            allowed="a decoder or an encoder",
            remedy=remedy,
        )
    if config.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        raise Refusal(
            where=FIELD,
            found=f"{config.model_type}, which transformers cannot load with a score head",
            allowed="an architecture of AutoModelForSequenceClassification",
            remedy=remedy,
        )
    longest = readable_by(config)
    if spec.max_length > longest:
        raise Refusal(
            where="reward.max_length",
            found=f"{spec.max_length} with this {config.model_type} model",
            allowed=f"at most {longest}",
            remedy="lower it",
        )
    use = MethodUse(spec.peft, "reward.peft", config, (), spec.max_length, spec.gradient_checkpointing)
    if refusal := check_method(use):
        raise refusal


def _check_below(recipe: Recipe) -> None:
    """A reward model is saved as one checkpoint, or one adapter on a plain one: none can stay in the policy that it starts as."""
    method = recipe.sft.peft.method if recipe.sft else "full"
    if not METHODS[method].merges:
        raise Refusal(
            where="sft.peft.method",
            found=f"{method}, which cannot be merged, below a reward model that starts as that policy",
            allowed=f"{_merging()}; or a reward.model of its own",
            remedy="choose one of these, or name reward.model",
        )


def _merging() -> str:
    return ", ".join(name for name, method in METHODS.items() if method.merges)
