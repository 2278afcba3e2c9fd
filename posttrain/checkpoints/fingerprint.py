"""What a model computes on fixed prompts, and how far a copy of it may be from that by rounding alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from posttrain.data.encode import cut_left, encode_prompts
from posttrain.data.tokenizer import added_tokens, writes_bos
from posttrain.models import blocks
from posttrain.peft.soft_prompts import context_length, has_soft_prompt
from posttrain.scoring.layouts import shifted

CHAT = (
    {"role": "user", "content": "Write a review of the Old Mill, a hotel."},
    {"role": "assistant", "content": "Quiet rooms, kind staff, and the river under the window."},
    {"role": "user", "content": "Shorter, please."},
)
TEXTS = ("The river rose for three days, and on the fourth the mill stood still.", "1, 2, 3,")


@dataclass(frozen=True)
class Fingerprint:
    """The outputs of one model on the fixed prompts."""

    logits: Tensor
    """[N, V] fp32 or fp64: of the N tokens of all prompts."""
    modules: dict[str, Tensor]
    """Outputs [P, width] of each module at the last token of each of P prompts; modules in the order in which they finish."""


@dataclass(frozen=True)
class Difference:
    """How far the outputs of a copy are from the model's. Numbers that are not finite count as the largest one."""

    logits: float
    """Norm of the difference of the logits by the norm of the logits, each row less its mean, on which no probability depends."""
    kl: float
    """Largest KL(model | copy) of the next token at one position, in nats."""
    top1: float
    """Share of positions with the same most likely token. Two tokens whose logits in the model are as close as twice the largest
    allowed difference are as good as tied, and count as the same."""
    module: str | None
    """The first module, in the order of computation, whose output differs by more than is allowed: the wrong weights are its."""
    module_difference: float
    """Norm of the difference of that module's output, by the norm of the output; without such a module the largest one of any."""


def fixed_prompts(tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> list[list[int]]:
    """A chat, a text and a short text as token ids, as the model is given them in training and when it is served."""
    seq2seq = bool(blocks.core(model).config.is_encoder_decoder)
    bos: Any = tokenizer.bos_token_id
    before, after = added_tokens(tokenizer) if seq2seq else ([bos] if writes_bos(tokenizer) else [], [])
    try:
        chats = encode_prompts([list(CHAT)], tokenizer, seq2seq)
    except TemplateError:  # a template for one question and its answer
        chats = encode_prompts([list(CHAT[:1])], tokenizer, seq2seq)
    texts = [[*before, *tokenizer(text, add_special_tokens=False)["input_ids"], *after] for text in TEXTS]
    whole: list[Any] = [*chats, *texts]
    return [cut_left(ids, context_length(model), bos).tolist() for ids in whole]


def fingerprint(model: nn.Module, prompts: Sequence[list[int]]) -> Fingerprint:
    """Run the model, in evaluation mode, on every prompt."""
    logits, seen = [], []
    for ids in prompts:
        with _last_outputs(model) as outputs:
            logits.append(logits_of(model, ids)[0])
        seen.append(outputs)
    shapes = {name: {outputs[name].shape if name in outputs else None for outputs in seen} for name in seen[0]}
    alike = [name for name, found in shapes.items() if len(found) == 1]
    return Fingerprint(torch.cat(logits), {name: torch.stack([outputs[name] for outputs in seen]) for name in alike})


@contextmanager
def _last_outputs(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Outputs [width] of all modules at the last token of the forward pass that is made inside, in the order of computation."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) and output else output
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dim() > 1 and tensor.numel():
                outputs.pop(name, None)  # a module that runs twice takes its last place
                outputs[name] = tensor.detach().flatten(0, -2)[-1].clone()

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in blocks.core(model).named_modules() if name]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def logits_of(model: Any, ids: list[int]) -> Tensor:
    """Logits [1, T, V] for a text of T tokens; an encoder-decoder reads the text and is asked for the same text again."""
    tokens = torch.tensor([ids])
    more: dict[str, Any] = {}
    if model.config.is_encoder_decoder:  # no labels: peft adds AdaLoRA's penalty to a loss, and fails where nothing is trained
        more["decoder_input_ids"] = shifted(tokens, model.config.decoder_start_token_id)
    # peft adds its virtual tokens to the mask that it is given, and a prefix is a cache.
    more |= {"attention_mask": torch.ones_like(tokens)} if has_soft_prompt(model) else {"use_cache": False}
    logits: Tensor = model(input_ids=tokens, **more).logits
    return logits[:, -len(ids) :]


def difference(model: Fingerprint, copy: Fingerprint, allowed: float, comparable: Sequence[str] | None = None) -> Difference:
    """How far a copy is from the model; `allowed` as `peft.rounding.allowed_difference` gives it.

    `comparable` names the modules that compute the same in both; None: all that have the same name and shape in both.
    """
    ours, theirs = (each.logits.double() - each.logits.double().mean(-1, keepdim=True) for each in (model, copy))
    tie = 2 * allowed * float(ours.abs().max())
    own, other = ours.argmax(-1, keepdim=True), theirs.argmax(-1, keepdim=True)
    same = (ours.gather(-1, own) - ours.gather(-1, other) <= tie) & theirs.isfinite().all(-1, keepdim=True)
    logprobs = ours.log_softmax(-1)
    kl = (logprobs.exp() * (logprobs - theirs.log_softmax(-1))).sum(-1).max()
    names = [name for name in copy.modules if name in model.modules and (comparable is None or name in comparable)]
    gaps = {name: _relative(model.modules[name], copy.modules[name]) for name in names
            if model.modules[name].shape == copy.modules[name].shape}  # fmt: skip
    first = next((name for name, gap in gaps.items() if gap > allowed), None)
    gap = gaps[first] if first else max(gaps.values(), default=0.0)
    return Difference(_relative(ours, theirs), max(0.0, _finite(kl)), float(same.double().mean()), first, gap)


def is_same(found: Difference, model: Fingerprint, allowed: float) -> bool:
    """Whether rounding explains a difference.

    Logits that are off by d give a KL of about half the variance of d, so at most d² / 2, with d up to `allowed` of the largest.
    """
    largest = float((model.logits - model.logits.mean(-1, keepdim=True)).abs().max())
    return found.logits <= allowed and found.kl <= (allowed * largest) ** 2 / 2 and found.top1 == 1 and found.module is None


def _relative(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference by the norm of `ours`; where that is zero, any difference is as large as can be."""
    apart, size = torch.linalg.vector_norm(theirs.double() - ours.double()), torch.linalg.vector_norm(ours.double())
    return 0.0 if apart == 0 else _finite(apart / size)


def _finite(value: Tensor) -> float:
    """The number, or the largest there is, which JSON can hold."""
    return float(value.nan_to_num(nan=torch.finfo(value.dtype).max))
