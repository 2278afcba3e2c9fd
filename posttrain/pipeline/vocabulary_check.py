"""Whether every token of a tokenizer has an embedding, and whether a stage trains the ones that were added for it."""

from __future__ import annotations

from typing import Any

from posttrain.models.policy import source_policy
from posttrain.peft.methods import METHODS
from posttrain.pipeline.chain import Chain
from schemas.errors import Refusal
from schemas.recipe import STAGES


def check_vocabulary(chain: Chain) -> None:
    """Refuse a checkpoint whose tokenizer has tokens that the model has no embedding for, of the policy and of a reward model.

    Raises:
        Refusal: for this, or when embeddings were added that the first stage of the policy leaves as they are.
    """
    from posttrain.checkpoints.load import load_config, tokenizer_as_found
    from posttrain.models.vocabulary import refuse_unknown_tokens

    reward = chain.recipe.reward.model if chain.recipe.reward else None
    for model, field in ((chain.model, "model"), (reward, "reward.model")):
        if model is not None and model.source != "scratch":
            policy = source_policy(model, field)
            refuse_unknown_tokens(tokenizer_as_found(policy), load_config(policy), field)
    first = next((stage for stage in chain.recipe.stages if STAGES[stage].policy), None)
    if first and chain.source.new_tokens:
        _check_method(chain, first, load_config(chain.source))


def _check_method(chain: Chain, stage: str, config: Any) -> None:
    """New embeddings are all alike: until they are trained, a model cannot tell their tokens apart."""
    from posttrain.models.blocks import architecture
    from posttrain.peft.check import without_numbers
    from posttrain.peft.wrap import wrap

    spec = getattr(chain.recipe.section(stage), "peft", None)
    if spec is None or spec.method == "full":
        return
    field, kind, count = f"{STAGES[stage].section}.peft", architecture(config), len(chain.source.new_tokens)
    able = ", ".join(name for name, method in METHODS.items() if kind in method.embeds)
    remedy = "choose one for this stage: later ones may use any method"
    if kind not in METHODS[spec.method].embeds:
        found = f"{spec.method}, which would leave the embeddings of {count} new tokens of model.resize_embeddings all alike"
        raise Refusal(where=f"{field}.method", found=found, allowed=able, remedy=remedy)
    compute = chain.recipe.compute
    if compute.num_processes > 1 and compute.strategy == "fsdp2":
        raise Refusal(
            where="compute.strategy",
            found=f"fsdp2 with {field}.method {spec.method} and {count} new tokens: peft cannot train rows of a sharded matrix",
            allowed="ddp",
            remedy="set compute.strategy=ddp, or train this stage in full",
        )
    wrap(without_numbers(config), spec, 0, field, new_tokens=chain.source.new_tokens)
