"""Responses sampled from a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from posttrain.packing import Tokens
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
    model = inner_model(model).eval()
    habits, model.generation_config = model.generation_config, GenerationConfig()  # penalties and filters are not the policy
    responses: list[Tokens] = []
    torch.manual_seed(seed)
    for start in range(0, len(prompts), BATCH):
        batch = [torch.from_numpy(p.astype(np.int64)) for p in prompts[start : start + BATCH]]
        ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_side="left", padding_value=tokenizer.pad_token_id)
        lengths = torch.tensor([len(p) for p in batch])
        attended = torch.arange(ids.shape[1]) >= (ids.shape[1] - lengths)[:, None]
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=attended.long().to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        responses += [_until_eos(row, tokenizer.eos_token_id) for row in out[:, ids.shape[1] :].cpu().numpy()]
        on_rows(len(batch))
    model.generation_config = habits
    return responses


def _until_eos(tokens: np.ndarray, eos: Any) -> Tokens:
    ends = np.flatnonzero(tokens == eos)
    return tokens[: ends[0] + 1 if len(ends) else None].astype(np.int32)
