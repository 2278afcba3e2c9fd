"""What can be refused before anything runs: the user's own data, the judge, the model.

Writes nothing but quarantine, and into the cache of the store what was fetched.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

from posttrain.chain import Chain
from posttrain.data.sources import SAMPLE_SCHEME, SAMPLES, SourceFile
from posttrain.peft.methods import METHODS
from posttrain.policy import Policy
from posttrain.reward_check import check_reward
from posttrain.reward_functions import load_function
from posttrain.rewards import load_judge
from schemas.errors import Refusal
from schemas.model import GgufModel, LocalModel, Model, ScratchModel
from schemas.ppo import PPO, FunctionReward
from schemas.recipe import Recipe
from schemas.reward import RewardBase


def preflight(chain: Chain) -> dict[str, float]:
    """Check everything that a recipe names; returns the counts of the data contract for sources that were read here.

    Raises:
        Refusal: for the first thing that cannot work. Rows that failed a contract lie in `quarantine/` of the store then.
    """
    recipe = chain.recipe
    check_model(chain.model)
    if recipe.reward and recipe.reward.model:
        check_model(recipe.reward.model, "reward.model")
    check_device(recipe)
    check_methods(chain)
    check_reward(chain)
    load_judge(recipe.evaluation.judge)
    check_rewards(recipe)
    own = {name: files for name, files in _own_sources(chain).items() if files}
    if "corpus" in own:
        from posttrain.filters.corpus import check_text

        check_text(own["corpus"])
    return _contract(chain, own)


def _own_sources(chain: Chain) -> dict[str, list[SourceFile]]:
    """Sources that are the user's: the project's samples are known to be good, and are made only when a run starts."""
    data = chain.recipe.data
    known = {f"{SAMPLE_SCHEME}{name}" for name in SAMPLES}
    given = {"preferences": data.preferences, "instructions": data.instructions}
    given |= {"corpus": data.corpus} if "filter" in chain.recipe.stages else {}
    return {name: chain.files(name) for name, source in given.items() if source and source not in known}


def _contract(chain: Chain, own: dict[str, list[SourceFile]]) -> dict[str, float]:
    """Run the data contract on the user's rows, unless this store holds its result."""
    from posttrain.data.validate import refuse_empty_splits, validate

    if not {"preferences", "instructions"} & own.keys() or _validated(chain):
        return {}
    data = chain.recipe.data
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        try:
            counts = validate(own.get("preferences"), own.get("instructions"), data.checks, data.holdout, out)
            refuse_empty_splits(counts)
            return counts
        except Refusal as refusal:
            kept = _keep_quarantine(chain, out)
            remedy = refusal.remedy.replace(str(out), str(kept))
            raise Refusal(refusal.where, refusal.found, refusal.allowed, remedy) from None


def _validated(chain: Chain) -> bool:
    return (chain.store.root / "validate").is_dir() and chain.store.finished(chain.identity("validate")) is not None


def _keep_quarantine(chain: Chain, out: Path) -> Path | None:
    """Copy the quarantine of a refused data set into the store and return its folder."""
    if not (out / "quarantine.parquet").exists():
        return None
    folder = chain.store.root / "quarantine" / chain.recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("quarantine.parquet", "summary.json"):
        shutil.copy(out / name, folder / name)
    return folder


def check_device(recipe: Recipe) -> None:
    """Refuse devices and arithmetic that are not there; torch is imported only to ask for what not every machine has."""
    compute = recipe.compute
    if compute.device == "cuda" or compute.dtype not in {"auto", "float32"} or compute.num_processes > 1:
        from posttrain.device import resolve_device, resolve_dtype

        resolve_device(compute)
        resolve_dtype(compute)


def check_model(model: Model | RewardBase, field: str = "model") -> None:
    """Refuse a model on this machine that cannot be one; `field` is where the recipe names it."""
    match model:
        case LocalModel():
            check_folder(Path(model.path).expanduser(), f"{field}.path")
        case GgufModel():
            check_gguf(Path(model.path).expanduser().resolve())


def check_rewards(recipe: Recipe) -> None:
    """Refuse reward functions that do not exist."""
    if not isinstance(recipe.alignment, PPO):
        return
    for field in ("reward", "monitor"):
        for source in (each for each in getattr(recipe.alignment, field) if isinstance(each, FunctionReward)):
            load_function(source.name, f"alignment.{field}.name")


def check_methods(chain: Chain) -> None:
    """Refuse a PEFT method that cannot work on this model, or that the registry cannot hold.

    Full fine-tuning and LoRA work everywhere: they are not asked about, which would import torch.
    """
    recipe = chain.recipe
    stages = {"sft.peft.method": recipe.sft, "alignment.peft.method": recipe.alignment}
    methods = {where: stage.peft.method for where, stage in stages.items() if stage is not None and hasattr(stage, "peft")}
    if set(methods.values()) <= {"full", "lora"}:
        return
    from posttrain.models import load_config, scratch_config
    from posttrain.peft.check import check_recipe
    from posttrain.policy import source_policy

    model = chain.model
    if isinstance(model, ScratchModel):
        check_recipe(recipe, scratch_config(model, model.vocab_size))
    else:
        check_recipe(recipe, load_config(source_policy(model)))
    for where, method in methods.items():
        if recipe.registry and not METHODS[method].merges:
            merging = ", ".join(name for name, each in METHODS.items() if each.merges)
            raise Refusal(where, f"{method}, which cannot be merged, with a registry section", f"registry null, or {merging}",
                          "consumers load a plain checkpoint: choose one of these, or set registry=null")  # fmt: skip


def check_folder(folder: Path, field: str = "model.path") -> None:
    """Refuse a folder that save_pretrained cannot have written."""
    lacking = [what for what, pattern in _PARTS.items() if not any(folder.glob(pattern))]
    if lacking:
        found = f"{folder}, which lacks {', '.join(lacking)}" if folder.is_dir() else f"{folder}, which is no folder"
        raise Refusal(field, found, "a folder written by save_pretrained, tokenizer included", "check the path")


_PARTS = {"config.json": "config.json", "safetensors weights": "*.safetensors", "a tokenizer": "tokenizer*"}


def check_gguf(path: Path) -> None:
    """Refuse a file that is no GGUF model, or that cannot be read here; its header is parsed, and no tensor is read."""
    if importlib.util.find_spec("gguf") is None:
        raise Refusal("model.source", "gguf, and the package gguf is not installed", "an installation with the extra gguf",
                      "pip install 'posttrain[gguf]'")  # fmt: skip
    if not path.is_file():
        raise Refusal("model.path", f"{path}, which is no file", "a GGUF file", "check the path")
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise Refusal("model.path", f"{path}, which does not start with GGUF", "a GGUF file",
                          "check the path; a folder of safetensors is model.source local")  # fmt: skip
    from posttrain.models import load_config, load_tokenizer

    policy = Policy(str(path.parent), gguf=path.name)
    load_config(policy)
    load_tokenizer(policy)
