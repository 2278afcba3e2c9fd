"""Methods of Hugging Face peft inside layers: recipe fields mapped to peft's, and refusals of what peft accepts silently."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from transformers.pytorch_utils import Conv1D

from posttrain.models import blocks
from posttrain.peft.methods import METHODS, Applied, Request
from schemas.peft import IA3, OFT, AdaLoRA, LoHa, LoKr, LoRA, VeRA

TASKS = {"decoder": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM", "encoder": None}
MUTATING = ("pissa", "pissa_niter_16", "olora")  # move the main part of each weight into the adapter


def _lora(s: LoRA, request: Request, model: Any) -> dict[str, Any]:
    init: Any = s.init if not (s.init == "default" or blocks.on_meta(model)) else True
    rows = {"trainable_token_indices": _rows(model, request)} if request.new_tokens else {}
    return {"r": s.r, "lora_alpha": s.alpha, "lora_dropout": s.dropout, "use_rslora": s.use_rslora, "use_dora": s.use_dora,
            "init_lora_weights": init, **rows}  # fmt: skip


def _rows(model: Any, request: Request) -> dict[str, list[int]]:
    """Rows to be trained of the input embedding and of the head, by module; peft finds a head that shares the matrix itself.

    Raises:
        Refusal: for a head with a bias, which peft would leave out of the logits.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        found = f"{request.spec.method} with model.resize_embeddings on a {model.config.model_type} model, whose head has a bias"
        remedy = "train in full first, or resize and train the embeddings elsewhere"
        raise request.refused(part="method", found=found, allowed="full", remedy=remedy)
    apart = [head] if head is not None and head.weight is not embedding.weight else []
    rows = list(request.new_tokens)
    return {name: rows for name, module in model.named_modules() if any(module is each for each in (embedding, *apart))}


def _adalora(s: AdaLoRA, request: Request, model: Any) -> dict[str, Any]:
    """peft requires a schedule, but `adalora.py` decides the budget."""
    return {"init_r": s.init_r, "target_r": s.target_r, "lora_alpha": s.alpha, "lora_dropout": s.dropout, "total_step": 1,
            "orth_reg_weight": s.orthogonality}  # fmt: skip


def _vera(s: VeRA, request: Request, model: Any) -> dict[str, Any]:
    return {"r": s.r, "d_initial": s.d_initial, "vera_dropout": s.dropout, "projection_prng_key": request.seed}


def _oft(s: OFT, request: Request, model: Any) -> dict[str, Any]:
    return {"oft_block_size": s.block_size, "module_dropout": s.dropout, "use_cayley_neumann": s.neumann}


def _loha(s: LoHa, request: Request, model: Any) -> dict[str, Any]:
    return {"r": s.r, "alpha": s.alpha, "rank_dropout": s.dropout}


def _lokr(s: LoKr, request: Request, model: Any) -> dict[str, Any]:
    return {"r": s.r, "alpha": s.alpha, "rank_dropout": s.dropout, "decompose_factor": s.factor or -1}


CONFIGS: dict[str, tuple[str, Callable[[Any, Request, Any], dict[str, Any]]]] = {
    "lora": ("LoraConfig", _lora),
    "adalora": ("AdaLoraConfig", _adalora),
    "vera": ("VeraConfig", _vera),
    "oft": ("OFTConfig", _oft),
    "loha": ("LoHaConfig", _loha),
    "lokr": ("LoKrConfig", _lokr),
}
"""Method → peft's config class and its fields, computed from the recipe's."""


def tuner(model: Any, request: Request) -> Applied:
    """A method on linear layers.

    Raises:
        Refusal: when the layers do not exist, or are of a kind that peft's implementation cannot take.
    """
    spec: Any = request.spec
    name, fields = CONFIGS[spec.method]
    targets = _targets(model, spec.target_modules, request)
    transposed = any(isinstance(layer, Conv1D) for layer in targets.values())
    if transposed and not METHODS[spec.method].conv1d:
        raise request.refused(
            part="method",
            found=f"{spec.method} on a {model.config.model_type} model, whose linear layers are stored transposed",
            allowed=", ".join(name for name, method in METHODS.items() if method.conv1d),
            remedy="choose one of these",
        )
    more = {"fan_in_fan_out": transposed} if METHODS[spec.method].conv1d else {}
    names = blocks.short_names(targets, blocks.linear_layers(model))
    return put(model, name, target_modules=names, **more, **fields(spec, request, model))


def lora(model: Any, request: Request) -> Applied:
    """LoRA; the decompositions need a rank that the layers have, and peft's olora takes transposed layers the wrong way round.

    Raises:
        Refusal: for `tuner`'s reasons and these two.
    """
    spec: Any = request.spec
    if spec.init in MUTATING:
        targets = _targets(model, spec.target_modules, request)
        if spec.init == "olora" and any(isinstance(layer, Conv1D) for layer in targets.values()):
            found = f"olora on a {model.config.model_type} model, whose linear layers are stored transposed"
            raise request.refused(
                part="init",
                found=found,
                allowed="default, gaussian, orthogonal, pissa, pissa_niter_16",
                remedy="choose another init",
            )
        least = min(min(blocks.width_in(layer), blocks.width_out(layer)) for layer in targets.values())
        if spec.r > least:
            found, allowed = f"{spec.r} with init {spec.init}", f"at most {least}, the rank of the narrowest target layer"
            raise request.refused(part="r", found=found, allowed=allowed, remedy="lower r, or choose init default")
    from posttrain.peft.lora_product import add_in_place  # which imports peft

    applied = tuner(model, request)
    add_in_place(applied.model)
    return applied


def oft(model: Any, request: Request) -> Applied:
    """Orthogonal fine-tuning.

    Raises:
        Refusal: for `tuner`'s reasons, or when the block size does not divide a layer's input; peft would choose another one.
    """
    spec: Any = request.spec
    targets = _targets(model, spec.target_modules, request)
    odd = {name: blocks.width_in(layer) for name, layer in targets.items() if blocks.width_in(layer) % spec.block_size}
    if odd:
        name, width = next(iter(odd.items()))
        fits = [n for n in range(2, 257) if not any(blocks.width_in(layer) % n for layer in targets.values())]
        raise request.refused(
            part="block_size",
            found=f"{spec.block_size}, and {name} has {width} inputs",
            allowed=f"a divisor of every target layer's inputs: {', '.join(map(str, fits)) or 'none up to 256'}",
            remedy="choose one of these",
        )
    return tuner(model, request)


def ia3(model: Any, request: Request) -> Applied:
    """Factors on keys, values and the input of the feed-forward layer's last matrix, or on the layers that are named.

    Raises:
        Refusal: when `auto` does not know the architecture, or the named layers do not exist.
    """
    spec: Any = request.spec
    if not isinstance(spec, IA3) or spec.target_modules != "auto":
        targets, inner = _targets(model, spec.target_modules, request), list(spec.feedforward_modules)
    else:
        forward = blocks.feed_forward_outputs(model)
        scaled = blocks.in_blocks(model, blocks.KEYS_AND_VALUES)
        if not forward or not scaled:
            found = f"auto, and the layers of a {model.config.model_type} model have names that are not known"
            raise request.refused(
                part="target_modules",
                found=found,
                allowed="names of linear layers",
                remedy="name target_modules and feedforward_modules",
            )
        targets = forward | scaled
        inner = blocks.short_names(forward, targets)
    names = blocks.short_names(targets, blocks.linear_layers(model))
    if not set(inner) <= set(names):  # peft wants the inner ones among the targets in the same words
        names = sorted(targets)
        inner = [name for name in names if blocks.ends_with(name, tuple(inner))]
    transposed = any(isinstance(layer, Conv1D) for layer in targets.values())
    return put(model, "IA3Config", target_modules=names, feedforward_modules=inner, fan_in_fan_out=transposed)


def ln_tuning(model: Any, request: Request) -> Applied:
    """Every normalisation layer. peft warns about each, because it does not know their widths, which it does not use."""
    found = blocks.norms(model)
    if not found:
        raise request.refused(
            part="method",
            found="ln_tuning, and this model's normalisation has no parameters",
            allowed="another",
            remedy="choose another",
        )
    names = blocks.short_names(found, dict(model.named_modules()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unsupported layer type")
        return put(model, "LNTuningConfig", target_modules=names)


def put(model: Any, config: str, **fields: Any) -> Applied:
    """Wrap a transformers model with a config of peft."""
    import peft

    task = TASKS[blocks.architecture(model.config)]
    return Applied(peft.get_peft_model(model, getattr(peft, config)(task_type=task, **fields)))


def _targets(model: Any, names: Any, request: Request) -> dict[str, Any]:
    """The linear layers that a recipe names, by full name.

    Raises:
        Refusal: when a name selects none.
    """
    if names == "all-linear":
        return blocks.all_linear(model)
    layers = blocks.linear_layers(model)
    unknown = [name for name in names if not any(blocks.ends_with(layer, (name,)) for layer in layers)]
    if unknown:
        known = sorted({name.rpartition(".")[2] for name in blocks.all_linear(model)})
        found, allowed = f"{', '.join(unknown)}: no linear layer of this name", f"all-linear, or names among {', '.join(known)}"
        raise request.refused(part="target_modules", found=found, allowed=allowed, remedy="use all-linear")
    chosen = {name: layer for name, layer in layers.items() if blocks.ends_with(name, tuple(names))}
    embedding = model.get_input_embeddings().weight
    if tied := [name for name, layer in chosen.items() if layer.weight is embedding]:
        found = f"{tied[0]}, which shares its matrix with the input embedding: merged, the adapter would change both"
        raise request.refused(
            part="target_modules", found=found, allowed="other linear layers", remedy="leave it out, or use all-linear"
        )
    return chosen
