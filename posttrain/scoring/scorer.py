"""Scores completions under a policy: a layout finds the hidden states of the target tokens, the head turns them into logprobs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.data.packing import Example
from posttrain.models.blocks import core
from posttrain.models.rope import forget_lengths, unscaled_up_to
from posttrain.models.routing import balances, with_routing
from posttrain.peft.soft_prompts import padded_logits, virtual_tokens
from posttrain.scoring.layouts import LAYOUTS, Embed, Located, PaddedRows, only_targets, packed, shifted, targets_of
from posttrain.scoring.output_head import head_of, token_logprobs, token_statistics
from posttrain.scoring.products import fp32_logits
from schemas.errors import Refusal

SOFT_PROMPT = "soft_prompt"
PLAIN = "plain"  # the model's own forward pass and logits: slow, and right for any language model


@dataclass(frozen=True)
class TokenScores:
    """Scored tokens of a batch: N tokens in B branches."""

    logprobs: Tensor  # [N] fp32
    branch: Tensor  # [N]
    branches: int
    normaliser: Tensor | None = None  # [N] log Z of the softmax; None where the model computed the logits itself
    entropy: Tensor | None = None  # [N] nats, with `statistics`
    top1: Tensor | None = None  # [N] 1 where the target is the most likely token, with `statistics`
    values: Tensor | None = None  # [N] what a critic expects to come, where there is one
    balance: Tensor | None = None  # auxiliary loss of a mixture of experts that trains, see `routing.py`

    def per_branch(self) -> Tensor:
        """Sum of the log-probabilities of each branch, [B]."""
        return self.logprobs.new_zeros(self.branches).index_add(0, self.branch, self.logprobs)


class Scorer(nn.Module):
    """Scores the completions of examples under a language model, in the layout that was found to be exact for it.

    Args:
        model: a transformers language model, bare or wrapped by peft.
        device: where it computes.
        dtype: arithmetic of the forward pass (autocast).
        layout: a name of `LAYOUTS`, or `plain`; None is `packed`, or `encoder_decoder` for such a model.
        neftune: noise on the input embeddings while training (arXiv 2310.05914), or None.
        temperature: divides the logits.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32, layout: str | None = None,
        neftune: float | None = None, temperature: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.device, self.dtype, self.neftune, self.temperature = model, device, dtype, neftune, temperature
        self.layout = layout or _declared_layout(model)

    def forward(self, examples: Sequence[Example], statistics: bool = False) -> TokenScores:
        """Score every completion token of `examples`, branches in their order; `statistics` adds entropy and top-1."""
        if self._embed and self.layout in (PLAIN, SOFT_PROMPT):
            found = f"{self.neftune} in the layout {self.layout}, which has no place for noise"
            raise Refusal(where="sft.neftune_alpha", found=found, allowed="null", remedy="remove neftune_alpha")
        alone = self.layout == PLAIN or self.scaled(examples)
        with self.arithmetic():
            if not alone:
                return self._score(self.locate(examples), statistics)
            with fp32_logits(inner_model(self.model)):
                scores = self._plain(examples)
        kept = targets_of(examples, self.device)
        return scores if kept is None else replace(scores, logprobs=scores.logprobs[kept], branch=scores.branch[kept])

    def scaled(self, examples: Sequence[Example]) -> bool:
        """Whether positions would depend on what else is in a batch: such examples are scored one sequence at a time."""
        limit = unscaled_up_to(inner_model(self.model).config)
        return limit is not None and longest_of(examples) > limit

    def locate(self, examples: Sequence[Example]) -> Located:
        """The last hidden states that predict the completion tokens, in a layout other than `plain`."""
        model = self.model if self.layout == SOFT_PROMPT else inner_model(self.model)
        forget_lengths(inner_model(model))
        return only_targets(LAYOUTS[self.layout](model, examples, self.device, self._embed), examples)

    def score_in_one_row(self, examples: Sequence[Example]) -> TokenScores:
        """Score in the packed layout, all examples in one row: what the start-up check compares with separate scoring."""
        if self.scaled(examples):
            return self.forward(examples)
        forget_lengths(inner_model(self.model))
        with self.arithmetic():
            width = sum(example.length for example in examples)
            at = packed(inner_model(self.model), examples, self.device, None, width)
            return self._score(only_targets(at, examples), False)

    def arithmetic(self) -> torch.autocast:
        """Autocast to this scorer's dtype."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def _score(self, at: Located, statistics: bool) -> TokenScores:
        head = head_of(inner_model(self.model), self.temperature)
        logprobs, normaliser = token_logprobs(at.hidden, head, at.targets)
        entropy, top1 = token_statistics(at.hidden, head, at.targets) if statistics else (None, None)
        return TokenScores(logprobs, at.branch, at.branches, normaliser, entropy, top1, balance=at.balance)

    def _plain(self, examples: Sequence[Example]) -> TokenScores:
        model = inner_model(self.model)
        if model.config.is_encoder_decoder:
            located = [self._plain_decoder(e, branch) for e in examples for branch in e.branches]
            branch = torch.cat([torch.full((len(part),), i, device=self.device) for i, part in enumerate(located)])
            return TokenScores(torch.cat(located), branch, len(located))
        if len(examples) > 1 or len(examples[0].branches) > 1:
            return self._one_by_one(examples)
        forget_lengths(model)
        rows = PaddedRows.of(examples, self.device)
        keep = rows.scored.shape[1] - int(rows.scored.any(0).nonzero()[0])  # columns from the first target on
        last = {"logits_to_keep": keep + 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        balance = None
        if virtual_tokens(self.model):
            logits = padded_logits(self.model, rows.ids, rows.attended)
        else:
            out = self.model(
                input_ids=rows.ids, attention_mask=rows.attended.long(), use_cache=False, **last, **with_routing(model)
            )
            logits = out.logits
            balance = model.router_aux_loss_coef * out.aux_loss if balances(model) else None
        logits = logits[:, -keep - 1 : -1].float() / self.temperature
        logprobs = logits.log_softmax(-1).gather(2, rows.ids[:, -keep:, None])[..., 0]
        return TokenScores(logprobs[rows.scored[:, -keep:]], rows.branch, len(rows.ids), balance=balance)

    def _one_by_one(self, examples: Sequence[Example]) -> TokenScores:
        """One sequence a pass: padding or a neighbour may change more than the mask hides, such as the factors of LongRoPE and
        dynamic NTK, which follow the longest row of a batch."""
        found = [self._plain([Example(e.prompt, (branch,))]) for e in examples for branch in e.branches]
        branch = torch.cat([torch.full_like(part.branch, i) for i, part in enumerate(found)])
        losses = [part.balance for part in found if part.balance is not None]
        balance = torch.stack(losses).mean() if losses else None
        return TokenScores(torch.cat([part.logprobs for part in found]), branch, len(found), balance=balance)

    def _plain_decoder(self, example: Example, branch: Any) -> Tensor:
        """Log-probabilities [n] of one branch under an encoder-decoder, which shifts the labels itself."""
        prompt, labels = (torch.from_numpy(part.astype("int64"))[None].to(self.device) for part in (example.prompt, branch))
        if virtual_tokens(self.model):
            start = inner_model(self.model).config.decoder_start_token_id
            logits = padded_logits(self.model, prompt, torch.ones_like(prompt), shifted(labels, start))
        else:
            logits = self.model(input_ids=prompt, labels=labels, use_cache=False).logits
        logprobs: Tensor = (logits[0].float() / self.temperature).log_softmax(-1).gather(1, labels[0, :, None])[:, 0]
        return logprobs

    @property
    def _embed(self) -> Embed | None:
        return self._noisy if self.neftune and self.training else None

    def _noisy(self, model: Any, ids: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings plus uniform noise in ±alpha / sqrt(L H) for a sequence of L tokens: equation 1 of NEFTune."""
        embedded: Tensor = model.get_input_embeddings()(ids)
        reach = (self.neftune or 0.0) / (lengths * embedded.shape[-1]).sqrt()
        return torch.addcmul(embedded, 2 * torch.rand_like(embedded) - 1, reach[..., None])


def longest_of(examples: Sequence[Example]) -> int:
    """Tokens of the longest prompt with one of its branches."""
    return max(len(example.prompt) + max(map(len, example.branches)) for example in examples)


def inner_model(model: nn.Module) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return core(model)


def _declared_layout(model: nn.Module) -> str:
    if virtual_tokens(model):
        return SOFT_PROMPT
    return "encoder_decoder" if inner_model(model).config.is_encoder_decoder else "packed"
