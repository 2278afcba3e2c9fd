"""Responses sampled from a policy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from posttrain.data.packing import Tokens
from posttrain.models.parameters import parameter_count
from posttrain.models.rope import forget_lengths, unscaled_up_to
from posttrain.models.routing import without_routing
from posttrain.peft.soft_prompts import generate
from posttrain.runtime.distributed import gathered, rank, size
from posttrain.runtime.threads import suited_threads
from posttrain.sampling.decoding import can_decode, decode, pad_prompts
from posttrain.scoring.products import fp32_logits
from posttrain.scoring.scorer import inner_model

BATCH = 128  # responses generated together
Count = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How responses are drawn from the full distribution, softmax(logits / temperature)."""

    max_new_tokens: int
    """Tokens after which a response is cut, the one that ends it included."""
    temperature: float
    """Above 0."""
    seed: int
    """Fixes the responses of a given policy to a given list of prompts."""
    samples: int = 1
    """Responses to each prompt."""
    ends: tuple[int, ...]
    """Any of these tokens ends a response; see `end_tokens`."""
    pad: int
    """Token that fills rows; it may be one of `ends`."""


class Sampler(Protocol):
    """Draws responses from a policy, in the arithmetic of an active autocast; its logits are fp32, as they are scored."""

    def __call__(
        self, model: nn.Module, prompts: Sequence[Tokens], plan: Sampling, on_rows: Count = ...
    ) -> list[tuple[Tokens, ...]]:
        """`plan.samples` responses to each prompt, in their order; each ends with one of `plan.ends` unless it was cut.

        Neither the mode of `model` nor the state of torch's own random numbers changes.

        Args:
            model: a transformers language model, bare or wrapped by peft.
            prompts: token ids, at least one each.
            plan: length, temperature, seed, number of samples.
            on_rows: told now and then how many more responses are done, those in progress by their share of the longest.
        """


@torch.no_grad()
def sample(
    model: nn.Module, prompts: Sequence[Tokens], plan: Sampling, on_rows: Count = lambda n: None
) -> list[tuple[Tokens, ...]]:
    """The default `Sampler`: our own loop for decoders, that of transformers for everything else.

    Raises:
        FloatingPointError: when the policy's logits are not finite.
    """
    rows = [prompt for prompt in prompts for _ in range(plan.samples)]
    limit = unscaled_up_to(inner_model(model).config)
    alone = limit is not None and max(map(len, rows)) + plan.max_new_tokens > limit
    with _as_policy(model), fp32_logits(inner_model(model)), suited_threads(parameter_count(model)):
        forget_lengths(inner_model(model))
        if alone:
            responses = _generated(model, rows, plan, on_rows, batch=1)
        else:
            responses = (_decoded if can_decode(model) else _generated)(model, rows, plan, on_rows)
    return [tuple(responses[at : at + plan.samples]) for at in range(0, len(rows), plan.samples)]


@contextlib.contextmanager
def _as_policy(model: nn.Module) -> Iterator[None]:
    """Disable dropout, a router's loss and the checkpoint's sampling defaults: penalties and filters are not part of the policy.

    FlexAttention, which training may use instead of SDPA, would recompile for every length.
    """
    inner, training = inner_model(model), [module for module in model.modules() if module.training]
    habits, attention = inner.generation_config, inner.config._attn_implementation
    inner.generation_config = GenerationConfig()
    if attention == "flex_attention":
        inner.set_attn_implementation("sdpa")
    asked = without_routing(inner)
    vars(inner.config).update(asked)
    model.eval()
    try:
        yield
    finally:
        inner.generation_config = habits
        vars(inner.config).update(dict.fromkeys(asked, True))
        if attention == "flex_attention":
            inner.set_attn_implementation(attention)
        for module in training:
            module.training = True


def _decoded(model: nn.Module, rows: Sequence[Tokens], plan: Sampling, on_rows: Count) -> list[Tokens]:
    """One response per row, rows of similar length together; of equal rows that stand together the prompt is encoded once.

    Processes that train together share the rows of each batch, with the random numbers that one alone would draw for them.
    """
    numbers = torch.Generator().manual_seed(plan.seed)
    responses: dict[int, Tokens] = {}
    by_length = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    for start in range(0, len(rows), BATCH):
        batch = by_length[start : start + BATCH]
        uniforms = torch.rand(len(batch), plan.max_new_tokens, 2, generator=numbers, dtype=torch.float64)
        mine = slice(len(batch) * rank() // size(), len(batch) * (rank() + 1) // size())
        others = len(batch) - len(batch[mine])  # they sample at the same time, and end about when this process does
        batch, uniforms = batch[mine], uniforms[mine]
        if not batch:
            on_rows(others)
            continue
        prompt = [row // plan.samples for row in batch]
        number = {each: i for i, each in enumerate(dict.fromkeys(prompt))}
        distinct = [rows[each * plan.samples] for each in number]
        out = decode(model, distinct, [number[each] for each in prompt], uniforms, plan.temperature, plan.ends, on_rows)
        responses |= {row: _until_end(tokens, plan.ends) for row, tokens in zip(batch, out.cpu().numpy(), strict=True)}
        if others:
            on_rows(others)
    everything = {row: tokens for share in gathered(responses) for row, tokens in share.items()}
    return [everything[row] for row in range(len(rows))]


def _generated(model: nn.Module, rows: Sequence[Tokens], plan: Sampling, on_rows: Count, batch: int = BATCH) -> list[Tokens]:
    """One response per row by transformers' own loop, which every architecture supports."""
    config, device = inner_model(model).config, inner_model(model).device
    responses: list[Tokens] = []
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(plan.seed)
        for start in range(0, len(rows), batch):
            ids, attended = pad_prompts(rows[start : start + batch], "right" if config.is_encoder_decoder else "left")
            steps = _Steps(len(ids), plan.max_new_tokens, on_rows)
            out = generate(
                model,
                ids.to(device),
                attended.to(device),
                max_new_tokens=plan.max_new_tokens,
                do_sample=True,
                temperature=plan.temperature,
                top_k=0,
                top_p=1.0,
                eos_token_id=list(plan.ends) or None,
                pad_token_id=plan.pad,
                decoder_start_token_id=getattr(config, "decoder_start_token_id", None),
                stopping_criteria=StoppingCriteriaList([steps]),
            )
            before = 1 if config.is_encoder_decoder else ids.shape[1]  # the decoder's start token, or the prompt
            responses += [_until_end(row, plan.ends) for row in out[:, before:].cpu().numpy()]
            steps.finish()
    return responses


class _Steps(StoppingCriteria):
    """Counts the steps of transformers' loop and never stops it. Rows that end early are unknown until the loop ends."""

    def __init__(self, rows: int, limit: int, on_rows: Count) -> None:
        self.rows, self.limit, self.on_rows, self.step, self.done = rows, limit, on_rows, 0, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **options: Any) -> torch.Tensor:
        """After each token."""
        self.step += 1
        self._reach(self.rows * self.step // self.limit)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def finish(self) -> None:
        """All rows have ended."""
        self._reach(self.rows)

    def _reach(self, done: int) -> None:
        self.done, before = done, self.done
        self.on_rows(done - before)


def _until_end(tokens: np.ndarray[Any, Any], ends: Sequence[int]) -> Tokens:
    last = np.flatnonzero(np.isin(tokens, ends))
    return tokens[: last[0] + 1 if len(last) else None].astype(np.int32)
