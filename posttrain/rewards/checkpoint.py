"""A reward model on disk, in the forms that others load.

config.json, model.safetensors  `AutoModelForSequenceClassification`: its logit less `config.reward_mean` is the reward
adapter/, score.safetensors     what was trained: the adapter (peft's format where peft has the method) and the score head
base/                           the model below an adapter that cannot be merged, in place of the first
reward_model.json               how `posttrain.rewards.model.open_reward_model` puts these together
tokenizer and chat template     a response is scored at its last token that is not padding
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from posttrain.checkpoints.load import check_size, load_config
from posttrain.models.blocks import architecture, attached
from posttrain.models.policy import Policy
from posttrain.models.shards import refuse_outside_shards
from posttrain.models.weight_sharing import shared_copy
from posttrain.peft import base_identity
from posttrain.peft.merge import merge
from posttrain.peft.methods import ENCODER, METHODS
from posttrain.peft.wrap import load_adapter, save_trained
from posttrain.rewards.scorer import SCORE, new_score, put_on, score_names, take_off
from posttrain.runtime.cpu_products import fast_cpu_products
from posttrain.scoring.scorer import inner_model
from schemas.peft import Peft

RECORD, SCORES, BASE, ADAPTER = "reward_model.json", "score.safetensors", "base", "adapter"


@dataclass(frozen=True)
class Record:
    """What the files of a folder do not say."""

    mean: float
    """Subtracted from every score; 0 where rewards are not centred."""
    of_policy: bool
    """Whether it began as the policy before alignment, and reads that policy's tokens."""
    shares: bool
    """Whether it is an adapter on that policy's weights."""
    whole: bool
    """Whether the folder is a checkpoint by itself; else `base/` and `adapter/` are."""
    pairs: bool
    """Whether it reads prompt and response as two texts."""
    heads: tuple[str, ...]
    """Modules that are the score head."""


def save_reward(
    model: Any, tokenizer: PreTrainedTokenizerBase, spec: Peft, start: Policy, mean: float, of_policy: bool, folder: Path
) -> None:
    """Write a trained reward model; its adapter is merged in place, so it is done with afterwards.

    Args:
        model: as `with_score` made it.
        start: where training began.
        mean: what centring subtracts.
        of_policy: whether training began with the policy before alignment.
    """
    inner = inner_model(model)
    names, adapted = score_names(inner), spec.method != "full"
    heads = take_off(inner, names)
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"{name}.{leaf}": tensor for name, head in heads.items() for leaf, tensor in head.state_dict().items()}
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, folder / SCORES)
    if adapted:
        save_trained(model, tokenizer, spec, start, folder)
    whole = METHODS[spec.method].merges
    if whole:
        plain = inner_model(merge(model))
        put_on(plain, heads)
        _as_classifier(plain, mean, tokenizer.pad_token_id).save_pretrained(folder)
    else:
        kept = {name: tensor for name, tensor in inner.state_dict().items() if not attached(name)}
        inner.save_pretrained(folder / BASE, state_dict=kept)
    tokenizer.save_pretrained(folder)
    pairs = architecture(inner.config) == ENCODER
    record = Record(mean, of_policy, of_policy and adapted, whole, pairs, tuple(names))
    (folder / RECORD).write_text(json.dumps(asdict(record), indent=1))


def _as_classifier(plain: Any, mean: float, pad: Any) -> Any:
    """The model under the class that transformers loads; it shares the tensors of `plain`."""
    if architecture(plain.config) == ENCODER:
        classifier = plain
    else:
        with torch.device("meta"):
            classifier = AutoModelForSequenceClassification.from_config(_config(plain.config))
        setattr(classifier, classifier.base_model_prefix, plain.base_model)
        classifier.score = plain.get_submodule(SCORE)
    classifier.config.pad_token_id = pad
    classifier.config.reward_mean = mean
    return classifier


def _config(config: Any) -> Any:
    config = copy.deepcopy(config)
    config.num_labels = 1
    return config


def read_record(folder: Path) -> Record:
    """The record of a folder."""
    content = json.loads((folder / RECORD).read_text())
    return Record(**{**content, "heads": tuple(content["heads"])})


def load_reward(folder: Path, base: nn.Module | None = None) -> nn.Module:
    """A saved reward model, frozen, in fp32 on the CPU.

    Args:
        base: a policy in memory, without an adapter of its own, of the weights with which training began. A reward model that is
            an adapter on it uses its parameters, where they are; one that is not does not look at it.

    Raises:
        Refusal: when `base` has other weights than those on which the adapter was trained, or a config in the folder has sizes of
            no model, or of a far larger one than its files hold.
    """
    for place in (folder, folder / BASE):
        refuse_outside_shards(place, f"reward model ({folder})")
    record, options = read_record(folder), {"dtype": torch.float32, "use_safetensors": True}
    if base is not None and record.shares:
        return _completed(shared_copy(base), {SCORE: new_score(base)}, folder)
    if record.whole:
        model = _read(folder, AutoModelForSequenceClassification, options)
        return model.requires_grad_(False)
    if architecture(load_config(Policy(str(folder / BASE)))) == ENCODER:
        below = _read(folder / BASE, AutoModelForSequenceClassification, options | {"num_labels": 1})
        heads = take_off(below, record.heads)
    else:
        below = _read(folder / BASE, AutoModelForCausalLM, options)
        heads = {SCORE: new_score(below)}
    base_identity.adopt(below, folder / ADAPTER)
    return _completed(below, heads, folder)


def _read(place: Path, kind: Any, options: dict[str, Any]) -> nn.Module:
    """What `kind` makes of a checkpoint whose config is sound: a registered one may be anybody's."""
    fast_cpu_products()
    source = Policy(str(place))
    config = load_config(source)
    check_size(source, config, kind)
    model: nn.Module = kind.from_pretrained(place, **options)
    return model


def _completed(below: nn.Module, heads: dict[str, nn.Module], folder: Path) -> nn.Module:
    """Put the saved adapter and score head on a model."""
    model, _ = load_adapter(below, folder / ADAPTER)
    tensors = load_file(folder / SCORES)
    for name, head in heads.items():
        head.load_state_dict({key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")})
        head.requires_grad_(False)
    put_on(inner_model(model), heads)
    return model
