"""Apply a method to a model with new parameters or those of a folder, and save what was trained. Nothing else does."""

from __future__ import annotations

import json
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from posttrain.models import blocks
from posttrain.models.policy import Policy
from posttrain.peft import base_identity
from posttrain.peft.applied import Adapted, adapted, note
from posttrain.peft.delta import RECORD, TENSORS, load_delta
from posttrain.peft.hf_peft import MUTATING
from posttrain.peft.methods import METHODS, Applied, Request
from posttrain.peft.soft_prompts import has_soft_prompt
from posttrain.peft.stacking import refuse_stack
from posttrain.runtime.disk import writing
from schemas.errors import Refusal
from schemas.peft import LoRA, Peft

PEFT_CONFIG, PEFT_TENSORS = "adapter_config.json", "adapter_model.safetensors"


def wrap(
    model: nn.Module,
    spec: Peft,
    seed: int,
    field: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    new_tokens: tuple[int, ...] = (),
) -> nn.Module:
    """The model with the method applied: its parameters train, all others are frozen; the seed determines new weights.

    An adapter that was loaded and could not be merged stays below the new one, frozen.

    Args:
        field: name of the recipe's section, for refusals.
        tokenizer: of the model; only prompt tuning from a text reads it.
        new_tokens: whose embeddings nothing has trained yet: LoRA trains them too.

    Raises:
        Refusal: when the method cannot work on this model.
    """
    base = blocks.core(model)
    _refuse_architecture(base.config, spec, field)
    refuse_stack(model, spec, field)
    below = base_identity.identity_of(base)
    applied = _apply(base, Request(spec, seed, field, tokenizer, new_tokens))
    wrapped: nn.Module = applied.model if model is base else model  # a soft prompt below keeps its place outside
    tuner = applied.model if METHODS[spec.method].from_peft else None
    mutated = isinstance(spec, LoRA) and spec.init in MUTATING and not blocks.on_meta(base)
    note(wrapped, Adapted(spec, below, tuner, applied.delta, adapter_state(tuner) if mutated else {}))
    return wrapped


def _refuse_architecture(config: Any, spec: Peft, field: str) -> None:
    kind = blocks.architecture(config)
    if kind not in METHODS[spec.method].architectures:
        raise Refusal(
            where=f"{field}.method",
            found=f"{spec.method} on {config.model_type}, a model of the kind {kind}",
            allowed=", ".join(name for name, method in METHODS.items() if kind in method.architectures),
            remedy="choose one",
        )


def _apply(base: Any, request: Request) -> Applied:
    """Apply the method to a transformers model; refuse when it raises or trains nothing."""
    torch.manual_seed(request.seed)
    try:
        applied = METHODS[request.spec.method].apply(base, request)
    except (ValueError, TypeError) as error:  # of peft
        found = str(error).splitlines()[0]
        raise request.refused(
            part="method", found=found, allowed="a method that fits this model", remedy="choose another"
        ) from error
    if not any(p.requires_grad for p in applied.model.parameters()):
        found = f"{request.spec.method}, which selects no parameter here"
        raise request.refused(part="method", found=found, allowed="a method that trains some", remedy="choose another")
    return applied


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """References to the trainable tensors by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def load_trainable(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy tensors into the trainable parameters.

    Raises:
        ValueError: when a name is missing or unexpected, or a shape differs.
    """
    own = trainable_state(model)
    if own.keys() != state.keys():
        raise ValueError(
            f"trainable tensors differ: missing {sorted(own.keys() - state)}, unexpected {sorted(state.keys() - own)}"
        )
    if odd := sorted(name for name, parameter in own.items() if parameter.shape != state[name].shape):
        raise ValueError(f"trainable tensors differ in shape: {odd}")
    for name, parameter in own.items():
        parameter.copy_(state[name])


def adapter_state(tuner: Any) -> dict[str, Tensor]:
    """Copies of an adapter's tensors on the CPU under the names that peft gives them in a file."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(tuner, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}


def save_trained(model: Any, tokenizer: PreTrainedTokenizerBase, spec: Peft, start: Policy, out: Path) -> dict[str, str]:
    """Write what was trained in the ecosystem's format; returns the stage's outputs (`model`, or `adapter`).

    An adapter is in peft's format where peft has the method, else in that of `delta.py`, and says in `lineage.json` on what it
    was trained. Its config names its base where that is a plain hub model; a folder, or a base with adapters, is not named:
    adapters outlive the folder of the moment, and a wrong base would be loaded without an error.

    Raises:
        ValueError: when `wrap` did not apply this method to this model.
        DiskFull: when there is no room for it; nothing of it is left then.
    """
    with writing(out / ("model" if spec.method == "full" else "adapter"), trainable_state(model)):
        return _write(model, tokenizer, spec, start, out)


def _write(model: Any, tokenizer: PreTrainedTokenizerBase, spec: Peft, start: Policy, out: Path) -> dict[str, str]:
    if spec.method == "full":
        model.save_pretrained(out / "model")
        tokenizer.save_pretrained(out / "model")
        return {"model": "model"}
    known = adapted(model)
    if known is None or known.spec != spec:
        raise ValueError(f"{spec.method} is not the method of this model")
    folder = out / "adapter"
    folder.mkdir(parents=True, exist_ok=True)
    if known.tuner is not None:
        _save_peft(known, start, folder)
    else:
        own = trainable_state(blocks.core(model))  # named as in the base, whatever is around it
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in own.items()}
        save_file(state, folder / TENSORS, {"format": "pt"})
        content = {**known.delta, "tensors": sorted(state)}
        (folder / RECORD).write_text(json.dumps(content, indent=1, sort_keys=True))
    base_identity.record(folder, spec, known.below)
    return {"adapter": "adapter"}


def _save_peft(known: Adapted, start: Policy, folder: Path) -> None:
    config, state = deepcopy(known.tuner.peft_config["default"]), adapter_state(known.tuner)
    if known.initial:
        state = _plain_lora(config, state, known.initial)
    on_hub = not start.adapters and not Path(start.base).is_dir()
    config.base_model_name_or_path, config.revision = (start.base, start.revision) if on_hub else ("", None)
    config.inference_mode = True
    for name in ("target_modules", "feedforward_modules"):
        if isinstance(getattr(config, name, None), set):  # sets have another order in each process, which would change the digest
            setattr(config, name, sorted(getattr(config, name)))
    base = type(blocks.core(known.tuner))
    automatic = {"base_model_class": base.__name__, "parent_library": base.__module__} if config.task_type is None else None
    save_file(state, folder / PEFT_TENSORS, {"format": "pt"})
    config.save_pretrained(folder, auto_mapping_dict=automatic)


def _plain_lora(config: Any, state: dict[str, Tensor], initial: dict[str, Tensor]) -> dict[str, Tensor]:
    """An adapter whose init subtracted B₀A₀ from W equals BA - B₀A₀ on W: a LoRA of twice the rank with the same scale.

    Trained embedding rows stay as they are."""
    config.init_lora_weights, config.r = True, 2 * config.r
    config.lora_alpha = config.lora_alpha * (2**0.5 if config.use_rslora else 2)
    down = {name: torch.cat([tensor, initial[name]], 0) for name, tensor in state.items() if "lora_A" in name}
    up = {name: torch.cat([tensor, -initial[name]], 1) for name, tensor in state.items() if "lora_B" in name}
    return state | down | up


def load_adapter(model: nn.Module, folder: Path) -> tuple[nn.Module, Any]:
    """The model with a saved adapter attached and frozen, and the adapter's peft model if it has one.

    BitFit and last layers change the model's own weights, so the result is a plain model.

    Raises:
        Refusal: when the adapter was trained on another base or below other adapters, or its file lacks or has tensors that the
            method does not expect (peft only warns).
    """
    base = blocks.core(model)
    below = base_identity.identity_of(base)
    base_identity.verify(model, folder)
    is_peft = (folder / PEFT_CONFIG).exists()
    try:
        tuner = _load_peft(base, folder) if is_peft else None
        if not is_peft:
            load_delta(base, folder)
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        raise Refusal(
            where=f"adapter ({folder})",
            found=str(error).splitlines()[0],
            allowed="exactly the tensors that were saved on this base",
            remedy="mend the folder, or train the adapter again",
        ) from error
    base_identity.grow(model, folder / (PEFT_TENSORS if is_peft else TENSORS), below)
    wrapped = tuner if tuner is not None and not has_soft_prompt(model) else model
    return wrapped.requires_grad_(False), tuner


def _load_peft(base: Any, folder: Path) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unsupported layer type")  # see `hf_peft.ln_tuning`
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # refused below
        tuner = PeftModel.from_pretrained(base, str(folder))
    own, saved = adapter_state(tuner), load_file(folder / PEFT_TENSORS)
    if own.keys() != saved.keys():
        raise ValueError(f"missing {sorted(own.keys() - saved.keys())}, unexpected {sorted(saved.keys() - own.keys())}")
    return tuner
