"""Reward models in memory: a trained score head on a transformer, and the scorer that reads a reward where each response ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from posttrain.data.packing import Example, Tokens
from posttrain.losses.reward import init_score
from posttrain.models import blocks
from posttrain.models.rope import forget_lengths
from posttrain.peft.methods import ENCODER
from posttrain.peft.soft_prompts import prompted
from posttrain.peft.wrap import wrap
from posttrain.scoring.layout_choice import choose_layout
from posttrain.scoring.layouts import LAYOUTS, Located, packed, pad_rows
from posttrain.scoring.products import fp32_output
from posttrain.scoring.scorer import PLAIN, SOFT_PROMPT, Scorer, inner_model
from schemas.peft import Peft

SCORE = "score"  # name that transformers gives the head of a decoder that classifies sequences
END = np.zeros(1, np.int32)  # a token that nothing sees: layouts locate the state before each token, so also that of the last
_ATTRIBUTE = "posttrain_score"  # of a transformers model: names of the modules that are its score head


@dataclass(frozen=True)
class BranchRewards:
    """The rewards that a reward model gives the branches of a batch."""

    values: Tensor  # [B] fp32

    def per_branch(self) -> Tensor:
        """[B], one for each branch."""
        return self.values


class RewardScorer(Scorer):
    """Scores whole responses: the reward of a branch is read at its last token. An encoder is scored one response a row.

    Args:
        model, device, dtype, layout: as of `Scorer`.
        token_types: whether an encoder is told which tokens are the response's, as its tokenizer would.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32, layout: str | None = None,
        token_types: bool = False,
    ) -> None:  # fmt: skip
        own = ENCODER if blocks.architecture(inner_model(model).config) == ENCODER else None
        super().__init__(model, device, dtype, layout or own)
        self.token_types = token_types

    def forward(self, examples: Sequence[Example], statistics: bool = False) -> BranchRewards:  # type: ignore[override]
        """The reward of every branch of `examples`, in their order; there are no token statistics."""
        with self.arithmetic():
            if self.layout == ENCODER:
                return BranchRewards(self._encoded(examples))
            if self.layout == PLAIN or self.scaled(examples):
                return BranchRewards(self._reward(torch.cat([self._alone(e.prompt, b) for e in examples for b in e.branches])))
            model = self.model if self.layout == SOFT_PROMPT else inner_model(self.model)
            ended = _ended(examples)
            forget_lengths(inner_model(model))
            return BranchRewards(self._at_ends(LAYOUTS[self.layout](model, ended, self.device, None), ended))

    def score_in_one_row(self, examples: Sequence[Example]) -> BranchRewards:  # type: ignore[override]
        """Score in the packed layout, all examples in one row: what the start-up check compares with separate scoring."""
        if self.scaled(examples):
            return self.forward(examples)
        ended = _ended(examples)
        with self.arithmetic():
            width = sum(example.length for example in ended)
            return BranchRewards(self._at_ends(packed(inner_model(self.model), ended, self.device, None, width), ended))

    def _at_ends(self, at: Located, ended: Sequence[Example]) -> Tensor:
        lengths = [len(branch) for example in ended for branch in example.branches]
        return self._reward(at.hidden[torch.from_numpy(np.cumsum(lengths) - 1).to(self.device)])

    def _reward(self, hidden: Tensor) -> Tensor:
        """[B] of the last hidden states [B, H], in fp32."""
        with torch.autocast(self.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), inner_model(self.model).score.weight.float())[:, 0]

    def _alone(self, prompt: Tokens, branch: Tokens) -> Tensor:
        """Last hidden state [1, H] of one response under the model's own forward pass."""
        ids = torch.from_numpy(np.concatenate([prompt, branch]).astype(np.int64))[None].to(self.device)
        forget_lengths(inner_model(self.model))
        hidden: Tensor = inner_model(self.model).base_model(**prompted(self.model, ids, torch.ones_like(ids)).inputs)[0]
        return hidden[:, -1]

    def _encoded(self, examples: Sequence[Example]) -> Tensor:
        """[B] of an encoder."""
        pairs = [(e.prompt, branch) for e in examples for branch in e.branches]
        ids, attended = pad_rows([np.concatenate(pair) for pair in pairs], self.device)
        more = {}
        if self.token_types:
            prompts = torch.tensor([len(prompt) for prompt, _ in pairs], device=self.device)
            response = torch.arange(ids.shape[1], device=self.device) >= prompts[:, None]
            more = {"token_type_ids": (response & attended).long()}
        inner = inner_model(self.model)
        with fp32_output(_last_layer(inner)):
            logits: Tensor = inner(input_ids=ids, attention_mask=attended.long(), **more).logits
        return logits[:, 0]


def _last_layer(encoder: Any) -> nn.Linear:
    """The layer whose output is the score: the last one outside the encoder's body, whatever its architecture calls it."""
    body = f"{encoder.base_model_prefix}."
    return [m for name, m in encoder.named_modules() if isinstance(m, nn.Linear) and not name.startswith(body)][-1]


def _ended(examples: Sequence[Example]) -> list[Example]:
    return [Example(e.prompt, tuple(np.concatenate([branch, END]) for branch in e.branches)) for e in examples]


def until_padding(tokens: Tokens, pad: int) -> Tokens:
    """A response without the padding tokens at its end.

    transformers reads the score at the last token that is not padding. Where EOS pads too, that is the token before EOS.
    """
    kept = np.flatnonzero(tokens != pad)
    return tokens[: kept[-1] + 1 if len(kept) else 0]


@torch.no_grad()
def reward_error(scorer: RewardScorer, layout: str, examples: Sequence[Example]) -> float:
    """Largest difference of rewards in fp32 between a layout and the model's own forward pass, one response at a time."""
    exact, plain = (RewardScorer(scorer.model, scorer.device, torch.float32, name) for name in (layout, PLAIN))
    together = exact.score_in_one_row(examples) if layout == "packed" else exact(examples)
    return float((together.values - plain(examples).values).abs().nan_to_num(nan=math.inf).max())


def use_fastest_layout(scorer: RewardScorer, examples: Sequence[Example]) -> str:
    """Have a scorer use the fastest layout that is exact on these examples; returns a sentence for the report."""
    if scorer.layout == ENCODER:
        return "encoder: one row per response"
    choice = choose_layout(scorer, examples, reward_error)
    choice.apply(scorer)
    return str(choice)


def with_score(
    model: Any, spec: Peft, seed: int, field: str, tokenizer: PreTrainedTokenizerBase | None = None, new: Sequence[str] = ()
) -> nn.Module:
    """The model with a method's parameters and a score head trainable, and all others frozen; the seed fixes new weights.

    A decoder gets a new head as its module `score`; its output head, which computes no reward, is frozen. An encoder that
    classifies sequences has its head; `new` names the modules in its body that it lacked when it was loaded.

    Raises:
        Refusal: when the method cannot work on this model; `field` names it.
    """
    heads = take_off(model, [*_own_head(model), *new])
    wrapped = wrap(model, spec, seed, field, tokenizer)
    inner = inner_model(wrapped)
    if not heads:
        _freeze_output_head(inner)
        score = new_score(inner)
        heads = {SCORE: score}
        if not blocks.on_meta(inner):
            torch.manual_seed(seed)
            init_score(score.weight)
    put_on(inner, heads)
    for head in heads.values():
        head.requires_grad_(True)
    return wrapped


def new_score(inner: Any) -> nn.Linear:
    """A score head for the hidden states of a decoder, its weight still to be filled."""
    head, device = inner.get_output_embeddings(), next(inner.parameters()).device
    width = inner.config.get_text_config().hidden_size if head is None else head.weight.shape[1]  # OPT may project before it
    score: nn.Linear = nn.utils.skip_init(nn.Linear, width, 1, bias=False, device=device)
    return score


def score_names(inner: Any) -> list[str]:
    """Names of the modules that are a model's score head."""
    return list(getattr(inner, _ATTRIBUTE, (SCORE,)))


def take_off(inner: Any, names: Sequence[str]) -> dict[str, nn.Module]:
    """Modules by name, each with an identity in its place: methods that choose layers must not find them."""
    heads = {name: inner.get_submodule(name) for name in names}
    for name in heads:
        inner.set_submodule(name, nn.Identity())
    return heads


def put_on(inner: Any, heads: Mapping[str, nn.Module]) -> None:
    """Put a score head on a transformers model."""
    for name, head in heads.items():
        parent, _, leaf = name.rpartition(".")
        inner.get_submodule(parent).add_module(leaf, head)
    setattr(inner, _ATTRIBUTE, tuple(heads))


def _own_head(model: Any) -> list[str]:
    """Modules with parameters outside the body of an encoder; a decoder's score is new."""
    if blocks.architecture(inner_model(model).config) != ENCODER:
        return []
    outside = {name: child for name, child in model.named_children() if child is not model.base_model}
    return [name for name, child in outside.items() if any(True for _ in child.parameters())]


def _freeze_output_head(inner: Any) -> None:
    """Nothing of it is computed, and processes that train together wait for the gradients of what is trained."""
    head = inner.get_output_embeddings()
    if head is not None and head.weight is not inner.get_input_embeddings().weight:
        head.requires_grad_(False)
