"""What can be refused before anything runs: the data, the judge, the model.

Writes nothing but quarantine, and into the cache of the store what was fetched or generated.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import polars as pl

from posttrain.data.sources import SAMPLE_SCHEME, SAMPLES, SourceFile
from posttrain.models.policy import adapter_beside, folder_policy, source_policy
from posttrain.models.shards import refuse_outside_shards
from posttrain.pipeline.chain import Chain
from posttrain.pipeline.evaluation_check import check_evaluation
from posttrain.pipeline.export_check import check_export
from posttrain.pipeline.reward_check import check_reward
from posttrain.pipeline.tracking_check import check_hub, check_sinks
from posttrain.pipeline.vocabulary_check import check_vocabulary
from posttrain.rewards.functions import load_function
from posttrain.runtime.trees import inside
from posttrain.runtime.writing import write_atomically
from schemas.data import CONTRACTS
from schemas.errors import Refusal
from schemas.model import GgufModel, LocalModel, Model, ScratchModel
from schemas.peft import LoRA, Peft
from schemas.ppo import PPO, FunctionReward, RegistryReward
from schemas.recipe import STAGES, Recipe
from schemas.reward import RewardBase
from schemas.sources import addresses


def preflight(chain: Chain, note: Callable[[str], None] = lambda sentence: None) -> dict[str, float]:
    """Check everything that a recipe names; returns the counts of the data contract, where the rows were read.

    `note` is told, a sentence each, what a person should know though nothing is refused.

    Raises:
        Refusal: for the first thing that cannot work. Rows that failed a contract lie in `quarantine/` of the store then.
    """
    recipe = chain.recipe
    check_names(recipe)
    given = {name: files for name, files in _sources(chain).items() if files}
    with tempfile.TemporaryDirectory() as scratch:
        if not is_made(recipe.model):
            _check_models(chain)
        if "corpus" in given:
            from posttrain.filters.documents import check_text
            from posttrain.filters.given import check as check_given

            check_text(given["corpus"])
            check_given(chain.recipe.filtering)
        counts = _contract(chain, given, Path(scratch))
        if is_made(recipe.model):
            _check_models(chain)
        check_chat_template(chain, Path(scratch), note)
        return counts | _forecast_rows(chain, Path(scratch), note)


def is_made(model: Model) -> bool:
    """Whether to look at a model makes it, by conversion or with new embeddings: that takes longer than reading the data."""
    return isinstance(model, GgufModel) or getattr(model, "resize_embeddings", False)


def check_names(recipe: Recipe) -> None:
    """What needs no look at a model's config or at data: files, devices and functions that are named."""
    if isinstance(recipe.model, GgufModel):
        check_gguf(Path(recipe.model.path).expanduser().resolve())
    else:
        check_model(recipe.model)
    if recipe.reward and recipe.reward.model:
        check_model(recipe.reward.model, "reward.model")
    if recipe.placement == "inline":  # else the device is that of another machine, which checks it: see `machine_check.py`
        check_device(recipe)
        check_sinks(recipe)
        check_hub(recipe)
    check_evaluation(recipe)


def _check_models(chain: Chain) -> None:
    """What the architectures decide."""
    check_model(chain.model)
    check_rewards(chain)
    check_vocabulary(chain)
    check_lengths(chain)
    if chain.recipe.placement == "inline" or chain.recipe.quantization is None:
        check_methods(chain)
    check_reward(chain)
    check_export(chain)


def check_chat_template(chain: Chain, contract: Path | None, note: Callable[[str], None]) -> None:
    """Refuse a chat template that fails on the rows: all that the contract kept in the store or in its folder, else the first."""
    if isinstance(chain.model, ScratchModel):
        return
    from posttrain.data.kinds import KINDS
    from posttrain.pipeline.lengths import first_rows
    from posttrain.pipeline.template_check import check_template

    kept = _kept_rows(chain, contract)
    lacking = [name for name in KINDS if getattr(chain.recipe.data, name) is not None and name not in kept]
    first = first_rows(chain).tables if lacking else {}
    check_template(chain, {**{name: table.lazy() for name, table in first.items()}, **kept}, note)


def _kept_rows(chain: Chain, contract: Path | None) -> dict[str, pl.LazyFrame]:
    """Rows that the contract kept, by data set: in the store, else in its folder."""
    from posttrain.data.kinds import KINDS

    folder = chain.stored("validate").folder if _validated(chain) else contract
    return {name: pl.scan_parquet(path, glob=False) for name in KINDS if folder and (path := folder / f"{name}.parquet").exists()}


def _forecast_rows(chain: Chain, contract: Path, note: Callable[[str], None]) -> dict[str, float]:
    """By stage the training rows that encoding will leave out; refused where they are too many."""
    kept = _kept_rows(chain, contract)
    if not kept:
        return {}
    from posttrain.pipeline.row_forecast import forecast_left_out

    return forecast_left_out(chain, {name: table.collect() for name, table in kept.items()}, note)


def _sources(chain: Chain) -> dict[str, list[SourceFile]]:
    """What is read before a run. Of the project's samples the corpus is known to be good; whether the others' rows fit is not."""
    data = chain.recipe.data
    samples = {f"{SAMPLE_SCHEME}{name}" for name in SAMPLES}
    given = {name: chain.files(name) for name in CONTRACTS if getattr(data, name) is not None}
    own = "filter" in chain.recipe.stages and not samples.issuperset(addresses(data.corpus))
    return given | ({"corpus": chain.files("corpus")} if own else {})


def _contract(chain: Chain, sources: dict[str, list[SourceFile]], out: Path) -> dict[str, float]:
    """Counts of the data contract: those that this store holds, or of a run of it on the recipe's rows into the folder `out`."""
    if _validated(chain):
        return chain.stored("validate").result.metrics
    given = {name: sources[name] for name in CONTRACTS if name in sources}
    if not given:
        return {}
    from posttrain.data.validate import validate
    from posttrain.data.verdict import refuse_empty_splits

    data = chain.recipe.data
    try:
        counts = validate(given, data.checks, data.holdout, out, chain.evaluation_sets, data.weights)
        refuse_empty_splits(counts)
        return counts
    except Refusal as refusal:
        kept = _keep_quarantine(chain, out)
        remedy = refusal.remedy.replace(str(out), str(kept))
        raise Refusal(where=refusal.where, found=refusal.found, allowed=refusal.allowed, remedy=remedy) from None


def _validated(chain: Chain) -> bool:
    return (chain.store.root / "validate").is_dir() and chain.store.finished(chain.identity("validate")) is not None


def _keep_quarantine(chain: Chain, out: Path) -> Path | None:
    """Copy the quarantine of a refused data set into the store and return its folder."""
    if not (out / "quarantine.parquet").exists():
        return None
    folder = inside(chain.store.root, "quarantine", chain.recipe.name, where="--store")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("quarantine.parquet", "summary.json"):
        write_atomically(folder / name, (out / name).read_bytes())
    return folder


def check_device(recipe: Recipe) -> None:
    """Refuse devices and arithmetic that are not there; torch is imported only to ask for what not every machine has."""
    compute = recipe.compute
    if compute.device == "cuda" or compute.dtype not in {"auto", "float32"} or compute.num_processes > 1:
        from posttrain.runtime.device import resolve_device, resolve_dtype

        resolve_device(compute)
        resolve_dtype(compute)


def check_model(model: Model | RewardBase, field: str = "model") -> None:
    """Refuse a model on this machine that cannot be one; `field` is where the recipe names it."""
    if isinstance(model, LocalModel):
        check_folder(Path(folder_policy(Path(model.path).expanduser()).base), f"{field}.path")


def check_rewards(chain: Chain) -> None:
    """Refuse sources of rewards for PPO that do not exist: functions, and registered versions that are no reward models."""
    spec = chain.recipe.alignment
    if not isinstance(spec, PPO):
        return
    for field, source in (*(("reward", each) for each in spec.reward), *(("monitor", each) for each in spec.monitor)):
        match source:
            case FunctionReward():
                load_function(source.name, f"alignment.{field}.name")
            case RegistryReward():
                from posttrain.rewards.checkpoint import RECORD  # which imports torch

                if not (chain.fetch(source.uri) / RECORD).exists():
                    raise Refusal(
                        where=f"alignment.{field}.uri",
                        found=f"{source.uri}, which is no reward model",
                        allowed="a version that registry.reward_model made",
                        remedy="check the name",
                    )


def check_lengths(chain: Chain) -> None:
    """Refuse sizes that are none, and rows longer than a checkpoint can read; of a new model the recipe itself says them."""
    if isinstance(chain.model, ScratchModel):
        return
    from posttrain.checkpoints.load import check_size, load_config
    from posttrain.models.architectures import longest_sequence, readable, refuse_beyond, refuse_long_answers
    from posttrain.models.rope import unscaled_up_to

    policy = source_policy(chain.model)
    config = load_config(policy)
    check_size(policy, config)
    recipe, longest = chain.recipe, longest_sequence(config)
    if isinstance(recipe.alignment, PPO) and (limit := unscaled_up_to(config)) is not None:  # whose critic reads batches
        refuse_beyond(limit, "alignment", "max_length", recipe.alignment.max_length)
    for stage in (stage for stage in recipe.stages if STAGES[stage].policy):
        field = "context" if stage == "pretrain" else "max_length"
        refuse_beyond(longest, STAGES[stage].section, field, getattr(recipe.section(stage), field))
    refuse_long_answers(readable(config), recipe.evaluation.max_new_tokens)


def check_methods(chain: Chain) -> None:
    """Refuse a PEFT method that cannot work on this model, or above the adapters that came with it.

    Full fine-tuning and a plain LoRA work on every plain model: they are not asked about, which would import torch.
    """
    recipe, model, kind = chain.recipe, chain.model, chain.recipe.quantization
    policy = None if isinstance(model, ScratchModel) else source_policy(model)
    adapters = policy.adapters if policy else ()
    sections = [recipe.section(stage) for stage in recipe.stages if STAGES[stage].policy]
    specs = [section.peft for section in sections if hasattr(section, "peft")]
    if kind is None and all(map(_works_everywhere, specs)) and not adapters:
        return
    from posttrain.checkpoints.load import load_config, scratch_config
    from posttrain.checkpoints.quantization import check_library
    from posttrain.checkpoints.unmerged import methods_that_stay, virtual_tokens_of
    from posttrain.peft.check import check_recipe
    from posttrain.runtime.device import resolve_device

    config = scratch_config(model, model.vocab_size) if isinstance(model, ScratchModel) else load_config(source_policy(model))
    device = resolve_device(recipe.compute).type if kind else "cpu"
    check_recipe(recipe, config, device, methods_that_stay(adapters), virtual_tokens_of(adapters))
    if kind:
        check_library(kind)


def _works_everywhere(spec: Peft) -> bool:
    """Named layers may not exist, and some inits need a rank that the layers have."""
    fits = isinstance(spec, LoRA) and spec.target_modules == "all-linear" and spec.init in ("default", "gaussian", "orthogonal")
    return fits or spec.method == "full"


def check_folder(folder: Path, field: str = "model.path") -> None:
    """Refuse a folder that save_pretrained cannot have written, or has written twice: a model, and an adapter."""
    lacking = [what for what, pattern in _PARTS.items() if not any(folder.glob(pattern))]
    if lacking:
        found = f"{folder}, which lacks {', '.join(lacking)}" if folder.is_dir() else f"{folder}, which is no folder"
        raise Refusal(
            where=field, found=found, allowed="a folder written by save_pretrained, tokenizer included", remedy="check the path"
        )
    if (folder / "adapter_config.json").exists():
        raise adapter_beside(field, str(folder))
    refuse_outside_shards(folder, field)


_PARTS = {"config.json": "config.json", "safetensors weights": "*.safetensors", "a tokenizer": "tokenizer*"}


def check_gguf(path: Path) -> None:
    """Refuse a file that cannot be a GGUF model, or that cannot be read here; the rest is seen when it is converted."""
    if importlib.util.find_spec("gguf") is None:
        raise Refusal(
            where="model.source",
            found="gguf, and the package gguf is not installed",
            allowed="an installation with the extra gguf",
            remedy="pip install 'posttrain[gguf]'",
        )
    if not path.is_file():
        raise Refusal(where="model.path", found=f"{path}, which is no file", allowed="a GGUF file", remedy="check the path")
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise Refusal(
                where="model.path",
                found=f"{path}, which does not start with GGUF",
                allowed="a GGUF file",
                remedy="check the path; a folder of safetensors is model.source local",
            )
