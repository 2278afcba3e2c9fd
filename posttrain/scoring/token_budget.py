"""How many tokens go through a model at once: enough to fill the device, few enough for its memory.

On a CPU products are as fast from some 512 rows on, and more tokens only cost memory that the system has to give page by page: a
training step of SmolLM2-135M took 1.17 times as long at 1,024 tokens as at 512, and 1.7 times the memory; scoring was 17% slower
at 16,384 tokens than at 2,048. Where the overhead of each operation counts, longer passes gain: with small models, and with half
precision, whose products take half the time (768 tokens for 512: 13% less time and 0.4 GB more; in fp32 7% less and 0.6 GB more).
640 are between: a run of SmolLM2-135M peaks at 3.05 GB with them.
"""

from __future__ import annotations

from typing import Any

import torch

from posttrain.models.blocks import bare
from posttrain.models.parameters import parameter_count

TRAINING = {"cpu": 4096, "cuda": 16384}  # at most
LEAST = {torch.float32: 512, torch.bfloat16: 640, torch.float16: 640}
ROLLOUTS = {"cpu": 1024, "cuda": 16384}  # of sampled responses: on a CPU as fast, and a fifth less memory (bench/NOTES.md)
SCORING = {"cpu": 2048, "cuda": 65536}  # without gradients
ACTIVATIONS = 2**30  # bytes that they may take on a CPU, about
# Numbers that a decoder keeps for the backward pass, for each output of its matrices: measured for Llama shapes with LoRA on all
# layers. A matrix has as many outputs as it has weights per unit of the model's width, about.
KEPT_PER_OUTPUT = 3


def training_tokens(model: Any, device: torch.device, dtype: torch.dtype) -> int:
    """Tokens per forward and backward pass in `dtype` of a transformers model, bare or wrapped by peft."""
    most = TRAINING[device.type]
    if device.type != "cpu":
        return most
    embedding, head = bare(model.get_input_embeddings()).weight, bare(model.get_output_embeddings())
    tables: set[Any] = {embedding, *([head.weight] if head is not None else [])}
    body: int = parameter_count(model) - sum(table.numel() for table in tables)
    per_token = 4 * KEPT_PER_OUTPUT * body // embedding.shape[1]
    fitting = ACTIVATIONS // max(1, int(per_token)) // 128 * 128
    return min(most, max(LEAST[dtype], fitting))


def rollout_tokens(model: Any, device: torch.device, dtype: torch.dtype) -> int:
    """The same where responses are trained on that the policy sampled."""
    return min(ROLLOUTS[device.type], training_tokens(model, device, dtype))


def scoring_tokens(device: torch.device) -> int:
    """Tokens per pass where no gradient is wanted."""
    return SCORING[device.type]
