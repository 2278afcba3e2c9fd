"""How large a recipe's model is, and how much memory each of its stages will take, without loading weights."""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from posttrain.checkpoints.load import load_config, parameters_of, scratch_config
from posttrain.data.packing import Example
from posttrain.forecast.peaks import HALF, Training, evaluation_peaks, rewarding, training_peaks, wrapped
from posttrain.forecast.phases import Arithmetic, Peak
from posttrain.forecast.ppo import ppo_peaks, spread
from posttrain.losses.preference import VARIANTS
from posttrain.models.architectures import readable
from posttrain.models.blocks import architecture
from posttrain.models.parameters import parameter_count, trainable_count
from posttrain.models.policy import source_policy
from posttrain.models.positions import UNLIMITED
from posttrain.peft.methods import ENCODER
from posttrain.peft.reach import reach_of
from posttrain.pipeline.chain import Chain
from posttrain.pipeline.lengths import Answering, FirstRows, Section
from posttrain.pipeline.reward_check import reward_config
from posttrain.pipeline.stages import WORK
from posttrain.rewards.encoder import encoder_config
from posttrain.runtime.device import device_of, resolve_dtype, trains_elsewhere
from posttrain.runtime.peak_memory import available_bytes, resident_bytes
from posttrain.sampling.sampler import BATCH
from posttrain.training.batches import Plan, by_rows, by_tokens
from posttrain.training.learning_rates import settled
from posttrain.training.objectives import BradleyTerry, LanguageModelling, Objective, preference
from posttrain.training.ppo.critic import apart
from posttrain.training.unpaired import Answers, Unpaired
from schemas.model import Model, ScratchModel
from schemas.ppo import PPO
from schemas.recipe import Recipe
from schemas.reward import RewardTraining, ScratchEncoder
from schemas.training import DPO, SFT, Full, Optimization, Pretrain

# Measured on Linux with glibc 2.36 and torch 2.13: at the start of the quickstart's stages a run held 0.73 to 0.80 GB where this
# began with 0.50 GB. The rest is Prefect, MLflow, and what torch loads with its first products.
BESIDE = 270_000_000
# A data set as text, as what the tokenizer gives out for all rows at once, and as examples: 24 to 38 bytes per byte of JSON.
PER_BYTE = 33
# glibc does not use again a part of what a forward pass frees between blocks that it keeps: 0.25 to 0.48 of it in models of 50M
# parameters, with LoRA and in full, in SFT and DPO, with short rows and long. Other allocators were not measured.
WASTE = {"glibc": 0.36}
STEPS = 64  # of a plan, among which the largest is looked for
GB = 1e9


def config_of(model: Model) -> PreTrainedConfig:
    """The architecture that a model of a recipe has."""
    return scratch_config(model, model.vocab_size) if isinstance(model, ScratchModel) else load_config(source_policy(model))


def size_of(model: Model) -> dict[str, int]:
    """Parameters, and key-value cache per token with and without grouped-query attention (bytes, fp32)."""
    config = config_of(model)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    per_head = 2 * 4 * config.num_hidden_layers * head
    return {
        "parameters": parameters_of(config),
        "kv_cache_bytes_per_token": per_head * kv_heads,
        "kv_cache_without_gqa": per_head * config.num_attention_heads,
    }


def memory_of(chain: Chain, rows: FirstRows, data: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """By stage that computes: device, parameters, the share that is trained, and the predicted peak of memory with its parts.

    `peak_memory_gb` is what the stage's metric of this name should show, in 10⁹ bytes: per process, and on CUDA of the device.
    `data` are the counts of the data contract, where it was read.
    """
    recipe, compute = chain.recipe, chain.recipe.compute
    beside = resident_bytes() + BESIDE  # before this adds to it
    on = Arithmetic(device_of(recipe), resolve_dtype(compute), compute.num_processes)
    there = None if trains_elsewhere(recipe) else available_bytes(on.device)
    config = config_of(chain.model)
    found = {}
    for stage in (stage for stage in recipe.stages if WORK[stage].tokens):
        of = _reward_config(chain, config) if stage == "reward" else config
        model, lengths, peaks = _stage(stage, recipe, of, rows, on, chain.new_tokens(stage), data)
        text = Peak("encoding the rows", data=_text(stage, recipe, rows))
        found[stage] = {
            "device": str(on.device),
            **counts(model, trained=stage != "evaluate"),
            **reach_of(model),
            "rows": lengths,
            **_largest([text, *_loading(of, on), *peaks], on, beside, there),
        }
    return found


def _reward_config(chain: Chain, policy: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the reward model; a new encoder has the policy's vocabulary."""
    spec = chain.recipe.reward
    if spec and isinstance(spec.model, ScratchEncoder):
        return encoder_config(spec.model, policy.vocab_size, spec.max_length, None)
    config: PreTrainedConfig = reward_config(chain)
    return config


def _loading(config: PreTrainedConfig, on: Arithmetic) -> list[Peak]:
    """A file in half precision is mapped beside the weights in fp32 that are made of it; one in fp32 is the weights."""
    if on.device.type == "cuda" or getattr(config, "dtype", None) not in HALF:
        return []
    return [Peak("loading the weights", weights=(4 + 2) * parameters_of(config))]


def _text(stage: str, recipe: Recipe, rows: FirstRows) -> int:
    """Bytes that a stage's rows take while they are encoded: training rows, or for evaluation held-out rows of all data."""
    held_out, dataset = recipe.data.holdout, recipe.dataset(stage)
    shares = {dataset: 1 - held_out} if dataset else dict.fromkeys(rows.sizes, held_out)
    return int(PER_BYTE * sum(share * rows.sizes[name] for name, share in shares.items()))


def _stage(
    stage: str, recipe: Recipe, config: PreTrainedConfig, rows: FirstRows, on: Arithmetic, new_tokens: tuple[int, ...],
    data: Mapping[str, float],
) -> tuple[nn.Module, str, list[Peak]]:  # fmt: skip
    """Model of a stage, its rows in words, and its phases; it trains the embeddings of `new_tokens` where its method can."""
    spec: Any = prompts_section(recipe) if stage == "evaluate" else recipe.section(stage)
    encoded_as = prompts_section(recipe) if isinstance(spec, PPO) else spec
    examples, lengths = rows.examples(encoded_as, config.is_encoder_decoder)
    peft = getattr(spec, "peft", None) or Full(method="full")
    model = rewarding(config, peft) if stage == "reward" else wrapped(config, peft, new_tokens=new_tokens)
    if isinstance(spec, PPO):
        whole = recipe.reward is not None and recipe.reward.model is None and recipe.reward.peft.method == "full"
        return model, lengths, ppo_peaks(config, spec, examples, recipe.seed, on, model, new_tokens, whole)
    if stage == "evaluate":
        told = recipe.evaluation
        limit = held_out_limit(recipe, config)
        examples, lengths = rows.held_out(prompts_section(recipe), limit, config.is_encoder_decoder)
        asked = min(told.prompts, math.ceil(rows.number(recipe.prompts_table, "holdout", data)) or told.prompts)
        # The longest prompts are sampled together.
        each = (min(len(example.prompt), limit - told.max_new_tokens) for example in spread(examples, asked))
        prompts = [length for length in each for _ in range(told.samples)][:BATCH]
        return model, lengths, evaluation_peaks(config, prompts, told.max_new_tokens, examples, on)
    compared = isinstance(spec, DPO) and (spec.unpaired or VARIANTS[spec.loss].reference)
    training = Training(config, spec, peft, _objective(spec, examples), _plan(spec, examples, recipe.seed), compared,
                        stage == "reward", recipe.quantization, new_tokens=new_tokens)  # fmt: skip
    return model, lengths, training_peaks(training, on, model)


def held_out_limit(recipe: Recipe, config: PreTrainedConfig) -> int:
    """Tokens of a held-out row that evaluation reads; soft prompts, which take a few of the positions, are left aside."""
    return min(readable(config), recipe.evaluation.max_length or UNLIMITED)


def prompts_section(recipe: Recipe) -> SFT | DPO | Answering:
    """The section that says how the rows are encoded whose prompts PPO and evaluation take."""
    if recipe.data.prompts is not None:
        asking = recipe.alignment if isinstance(recipe.alignment, PPO) else None
        new = asking.max_new_tokens if asking else recipe.evaluation.max_new_tokens
        most = asking.max_length if asking else recipe.evaluation.max_length or max(1024, 2 * new)
        return Answering(most, new, recipe.evaluation.prompts)
    if recipe.prompts_table == "instructions":
        return recipe.sft or SFT()
    given = recipe.alignment if isinstance(recipe.alignment, DPO) else DPO(algorithm="dpo")
    single = recipe.prompts_table == "feedback"
    return given if given.unpaired == single else given.model_copy(update={"loss": "kto" if single else "sigmoid"})


def _objective(spec: Section, examples: Sequence[Example]) -> Objective:
    if isinstance(spec, RewardTraining):
        return BradleyTerry(examples, spec.margin)
    if not isinstance(spec, DPO):
        return LanguageModelling(examples, z_loss=spec.z_loss)
    if spec.unpaired:
        return Unpaired(
            Answers(examples, torch.ones(len(examples), dtype=torch.bool), spec.max_length), torch.zeros(len(examples))
        )
    reference = torch.zeros(len(examples), 2) if VARIANTS[spec.loss].reference else None
    return preference(spec, examples, reference)


def _plan(spec: Section, examples: Sequence[Example], seed: int) -> Plan:
    """Steps over the rows that were read, as many times as it takes to see a large one."""
    if isinstance(spec, Pretrain):
        return by_tokens([e.length for e in examples], spec.batch_tokens, min(spec.tokens, STEPS * spec.batch_tokens), seed)
    epochs = max(1, min(spec.epochs, STEPS * spec.batch_size // len(examples)))
    return by_rows(len(examples), spec.batch_size, epochs, seed)


def counts(model: nn.Module, trained: bool = True) -> dict[str, Any]:
    """Parameters of a model, and how many of them a training stage trains."""
    parameters = parameter_count(model)
    if not trained:
        return {"parameters": parameters}
    trainable = trainable_count(model)
    return {
        "parameters": parameters,
        "trainable_parameters": trainable,
        "trainable_share": round(trainable / parameters, 6),
    }


def _largest(peaks: Sequence[Peak], on: Arithmetic, beside: int, there: int | None) -> dict[str, Any]:
    """The phase that takes most, with what lies beside it in a host's process, and a warning where that is more than there is.

    Args:
        there: bytes that a stage could use; None where nobody here knows.
    """
    host = on.device.type == "cpu"
    waste = WASTE.get(platform.libc_ver()[0], 0.0) if host else 0.0
    peak = max((replace(each, waste=int(waste * each.passing)) for each in peaks), key=lambda each: each.total)
    parts = {"baseline": beside if host else 0, **peak.parts()}
    total = sum(parts.values())
    needed = total * (on.processes if host else 1)
    return {
        "peak_memory_gb": round(total / GB, 3),
        "peak_at": peak.phase,
        "parts_gb": {name: round(size / GB, 3) for name, size in parts.items() if size},
        **({"warning": _too_much(needed, there)} if there is not None and needed > there else {}),
    }


def _too_much(needed: int, there: int) -> str:
    return (
        f"about {needed / GB:.1f} GB are needed and {there / GB:.1f} GB are available: "
        "lower batch_size or max_length, train an adapter, or set gradient_checkpointing"
    )


def learning_rates_of(chain: Chain) -> dict[str, float]:
    """Peak learning rate of every stage that trains, and of PPO's critic: the recipe's or the derived one, in their order."""
    recipe, config = chain.recipe, config_of(chain.model)
    found: dict[str, float] = {}
    for stage in recipe.stages:
        spec = recipe.section(stage)
        if not isinstance(spec, Optimization):
            continue
        if spec.learning_rate is None:
            peft: Any = getattr(spec, "peft", None)
            spec = settled(getattr(spec, "algorithm", stage), spec, peft, functools.partial(_parameters, chain, stage, config))
        assert spec.learning_rate is not None  # `settled`
        found[stage] = spec.learning_rate
        if isinstance(spec, PPO):
            parts = apart(spec, functools.partial(_parameters, chain, stage, config))
            found |= {f"{stage}.{part.name}": part.learning_rate for part in parts}
    return found


def _parameters(chain: Chain, stage: str, policy: PreTrainedConfig) -> int:
    """Of the model that a stage starts from."""
    config = _reward_config(chain, policy) if stage == "reward" else policy
    if stage == "reward" and architecture(config) == ENCODER:
        return parameter_count(rewarding(config, Full(method="full")))
    return parameters_of(config)
