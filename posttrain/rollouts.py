"""Responses sampled from a policy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from posttrain.packing import Tokens
from posttrain.peft.soft_prompts import generate
from posttrain.scoring import inner_model

BATCH = 128  # prompts generated together


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Tokens],
    max_new_tokens: int,
    temperature: float,
    seed: int,
    on_rows: Callable[[int], None] = lambda n: None,
) -> list[Tokens]:
    """One response per prompt, sampled from the full distribution; it ends with EOS unless cut at `max_new_tokens`.

    The seed fixes the responses of a given policy to a given list of prompts.
    """
    whole, model = model.eval(), inner_model(model)
    habits, model.generation_config = model.generation_config, GenerationConfig()  # penalties and filters are not the policy
    responses: list[Tokens] = []
    torch.manual_seed(seed)
    for start in range(0, len(prompts), BATCH):
        ids, attended = _padded(prompts[start : start + BATCH], tokenizer, "right" if model.config.is_encoder_decoder else "left")
        out = generate(
            whole,
            ids.to(model.device),
            attended.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
        )
        before = 1 if model.config.is_encoder_decoder else ids.shape[1]  # the decoder's start token, or the prompt
        responses += [_until_eos(row, tokenizer.eos_token_id) for row in out[:, before:].cpu().numpy()]
        on_rows(len(ids))
    model.generation_config = habits
    return responses


def _padded(prompts: Sequence[Tokens], tokenizer: PreTrainedTokenizerBase, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both [B, T]; a decoder continues where the row ends, so it is padded on the left."""
    rows = [torch.from_numpy(prompt.astype(np.int64)) for prompt in prompts]
    pad = functools.partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side=side)
    return pad(rows, padding_value=tokenizer.pad_token_id), pad([torch.ones_like(row) for row in rows])


def _until_eos(tokens: np.ndarray, eos: Any) -> Tokens:
    ends = np.flatnonzero(tokens == eos)
    return tokens[: ends[0] + 1 if len(ends) else None].astype(np.int32)
