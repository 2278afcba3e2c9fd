"""What rules out a reward model before anything trains: its architecture, its method, its lengths."""

from __future__ import annotations

from typing import Any

from posttrain.chain import Chain
from posttrain.peft.check import Plan, check_method
from posttrain.peft.methods import ENCODER, ENCODER_DECODER, METHODS
from schemas.errors import Refusal
from schemas.model import ScratchModel
from schemas.recipe import Recipe
from schemas.reward import RewardModel, ScratchEncoder

FIELD = "reward.model"


def check_reward(chain: Chain) -> None:
    """Refuse a reward section that cannot work with the models that the recipe names.

    Raises:
        Refusal: for the first reason.
    """
    spec = chain.recipe.reward
    if spec is None or isinstance(spec.model, ScratchEncoder):
        return
    if spec.model is None:
        _check_below(chain.recipe)
    check_start(spec, reward_config(chain))


def reward_config(chain: Chain) -> Any:
    """The transformers config of the checkpoint that a reward model starts as."""
    from posttrain.models import load_config, scratch_config
    from posttrain.policy import source_policy

    spec = chain.recipe.reward
    given = spec.model if spec and spec.model and not isinstance(spec.model, ScratchEncoder) else chain.model
    return scratch_config(given, given.vocab_size) if isinstance(given, ScratchModel) else load_config(source_policy(given))


def check_start(spec: RewardModel, config: Any) -> None:
    """Refuse a section on a model with this config.

    Raises:
        Refusal: for the first reason.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    from posttrain.architectures import longest_sequence
    from posttrain.peft.blocks import architecture

    kind, remedy = architecture(config), "name another model: reward.model hub, local, or scratch (a small BERT)"
    if kind == ENCODER_DECODER:
        raise Refusal(FIELD, f"{config.model_type}, an encoder-decoder, which reads no prompt with its response as one text",
                      "a decoder or an encoder", remedy)  # fmt: skip
    if config.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        raise Refusal(FIELD, f"{config.model_type}, which transformers cannot load with a score head",
                      "an architecture of AutoModelForSequenceClassification", remedy)  # fmt: skip
    longest = longest_sequence(config) - (kind != ENCODER)  # a decoder's layouts put a token after the last one
    if spec.max_length > longest:
        raise Refusal("reward.max_length", f"{spec.max_length} with this {config.model_type} model", f"at most {longest}",
                      "lower it")  # fmt: skip
    plan = Plan(spec.peft, "reward.peft", config, (), spec.max_length, spec.gradient_checkpointing)
    if refusal := check_method(plan):
        raise refusal


def _check_below(recipe: Recipe) -> None:
    """A reward model is saved as one checkpoint, or one adapter on a plain one: none can stay in the policy that it starts as."""
    method = recipe.sft.peft.method if recipe.sft else "full"
    if not METHODS[method].merges:
        merging = ", ".join(name for name, each in METHODS.items() if each.merges)
        raise Refusal("sft.peft.method", f"{method}, which cannot be merged, below a reward model that starts as that policy",
                      f"{merging}; or a reward.model of its own", "choose one of these, or name reward.model")  # fmt: skip
