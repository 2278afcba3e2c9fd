"""Reward models ready for use: from a folder of the reward stage to rewards of many responses at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from posttrain.checkpoints.load import tokenizer_as_found
from posttrain.data.encode import Conversation, cut_left, encode_response
from posttrain.data.encode_pairs import encode_text_pairs, prompt_text
from posttrain.data.packing import Example, Tokens, micro_batches
from posttrain.models.policy import Policy
from posttrain.peft.methods import ENCODER
from posttrain.peft.soft_prompts import context_length
from posttrain.rewards.checkpoint import load_reward, read_record
from posttrain.rewards.encoder import marks_responses
from posttrain.rewards.scorer import RewardScorer, until_padding, use_fastest_layout
from posttrain.scoring.token_budget import scoring_tokens


class RewardModel:
    """Rewards of responses, centred as training left them.

    Args:
        scorer: a loaded reward model.
        tokenizer: of that model.
        mean: subtracted from every score.
        of_policy: whether it reads the tokens of the policy before alignment, and not only texts.
    """

    def __init__(self, scorer: RewardScorer, tokenizer: PreTrainedTokenizerBase, mean: float, of_policy: bool) -> None:
        self.scorer, self.tokenizer, self.mean, self.of_policy = scorer.eval(), tokenizer, mean, of_policy
        self.layout: str | None = None
        """How responses are laid out, in words; chosen when the first ones are scored."""
        positions = context_length(scorer.model)
        self.limit = positions if self.is_encoder else positions - 1  # a layout puts a token after the last one

    @property
    def is_encoder(self) -> bool:
        """Whether it reads prompt and response as two texts."""
        return self.scorer.layout == ENCODER

    def __call__(
        self, prompts: Sequence[Tokens], responses: Sequence[Tokens], on_rows: Callable[[int], None] = lambda n: None
    ) -> Tensor:
        """Rewards [N], fp32 on the CPU, of N responses to N prompts in this model's own tokens; equal prompts are read once.

        A response ends with EOS unless it was cut. Prompts that are too long for the model are cut from the left.

        Raises:
            TypeError: for an encoder, which reads texts.
        """
        if self.is_encoder:
            raise TypeError("an encoder reads texts: call of_texts")
        read = [until_padding(response, self.tokenizer.pad_token_id)[: self.limit - 1] for response in responses]
        rows_of: dict[bytes, list[int]] = {}
        for row, (prompt, response) in enumerate(zip(prompts, read, strict=True)):
            kept = cut_left(prompt, self.limit - len(response), self.tokenizer.bos_token_id)
            rows_of.setdefault(kept.tobytes(), []).append(row)
        examples = [
            Example(np.frombuffer(prompt, np.int32), tuple(read[row] for row in rows)) for prompt, rows in rows_of.items()
        ]
        rewards = torch.zeros(len(read))
        rewards[[row for rows in rows_of.values() for row in rows]] = self._scores(examples, on_rows)
        return rewards

    def of_texts(
        self, prompts: Sequence[Conversation], responses: Sequence[str], on_rows: Callable[[int], None] = lambda n: None
    ) -> Tensor:
        """Rewards [N], fp32 on the CPU, of N responses that have ended, to N conversations, whatever tokens the policy has."""
        if self.is_encoder:
            texts = [prompt_text(prompt) for prompt in prompts]
            examples = encode_text_pairs(texts, list(responses), self.tokenizer, self.limit)
            return self._scores(examples, on_rows)
        pairs = zip(prompts, responses, strict=True)
        encoded = [encode_response(prompt, response, self.tokenizer, self.limit) for prompt, response in pairs]
        return self([e.prompt for e in encoded], [e.branches[0] for e in encoded], on_rows)

    @torch.no_grad()
    def _scores(self, examples: Sequence[Example], on_rows: Callable[[int], None]) -> Tensor:
        """[responses] of all branches in their order, in batches of examples of about one length."""
        if self.layout is None and examples:
            self.layout = use_fastest_layout(self.scorer, examples)
        lengths = np.array([example.length for example in examples], np.int64)
        found: list[Tensor] = [torch.zeros(0)] * len(examples)
        for group in micro_batches(range(len(examples)), lengths, scoring_tokens(self.scorer.device)):
            sizes = [len(examples[row].branches) for row in group]
            values = self.scorer([examples[row] for row in group]).per_branch().cpu()
            for row, part in zip(group, values.split(sizes), strict=True):
                found[row] = part
            on_rows(sum(sizes))
        return torch.cat(found) - self.mean if found else torch.zeros(0)


def open_reward_model(
    folder: Path, device: torch.device, dtype: torch.dtype = torch.float32, base: nn.Module | None = None
) -> RewardModel:
    """The reward model in the folder that the reward stage put out.

    Args:
        folder: output `reward` of the stage.
        device: where it computes; with a shared `base` its weights stay where they are.
        dtype: arithmetic of the forward pass (autocast); rewards are fp32.
        base: the policy before alignment in memory, without an adapter of its own. A reward model that is an adapter on these
            weights takes memory for the adapter and the score head alone.

    Raises:
        Refusal: when `base` has other weights than those on which the adapter was trained.
    """
    record = read_record(folder)
    model = load_reward(folder, base)
    tokenizer = tokenizer_as_found(Policy(str(folder)))
    scorer = RewardScorer(model.to(device), device, dtype, token_types=marks_responses(tokenizer))
    return RewardModel(scorer, tokenizer, record.mean, record.of_policy)
