"""Log-probabilities of the trained-on tokens alone: the output head never sees a position that has no target.

The `[N, V]` logits exist one chunk at a time. With a frozen head the forward pass keeps d logp / d hidden (two matrix products
per token in all); with a trainable head the backward pass recomputes each chunk and accumulates the head's gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.packing import Example, pack

CHUNK_ELEMENTS = 2**24  # logits held at once: 64 MB in fp32


@dataclass(frozen=True)
class Head:
    """The output head: `logits = cap * tanh(scale * (h Wᵀ + b) / cap)`; without a cap `scale * (h Wᵀ + b)`."""

    weight: Tensor  # [V, H]
    bias: Tensor | None = None  # [V]
    scale: float = 1.0
    softcap: float | None = None


def head_of(model: nn.Module) -> Head:
    """The head of a transformers causal language model, with the logit scale and soft cap of its config."""
    layer = model.get_output_embeddings()  # type: ignore[operator]
    config: Any = model.config
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    return Head(layer.weight, getattr(layer, "bias", None), float(scale), getattr(config, "final_logit_softcapping", None))


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: Head) -> Tensor:
        logprobs = torch.empty(len(hidden), device=hidden.device, dtype=torch.float32)
        head_trains = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        keep = ctx.needs_input_grad[0] and not head_trains
        grad = torch.empty_like(hidden) if keep else None
        for part in _chunks(len(hidden), len(weight)):
            logits = _logits(hidden[part], weight, bias, head)
            normaliser = logits.logsumexp(-1, keepdim=True)
            logprobs[part] = (logits.gather(1, targets[part, None]) - normaliser)[:, 0]
            if grad is not None:
                slope = _slope(logits, normaliser, targets[part], head)
                grad[part] = slope.to(weight.dtype) @ weight
        ctx.head = head
        ctx.save_for_backward(*((grad,) if keep else (hidden, weight, targets, *([bias] if bias is not None else []))))
        ctx.keep = keep
        return logprobs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (outer,) = grads
        if ctx.keep:
            (grad,) = ctx.saved_tensors
            return grad * outer[:, None].to(grad.dtype), None, None, None, None
        hidden, weight, targets, *rest = ctx.saved_tensors
        bias = rest[0] if rest else None
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=torch.float32)
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None else None
        for part in _chunks(len(hidden), len(weight)):
            logits = _logits(hidden[part], weight, bias, ctx.head)
            slope = _slope(logits, logits.logsumexp(-1, keepdim=True), targets[part], ctx.head).mul_(outer[part, None])
            d_hidden[part] = slope.to(weight.dtype) @ weight
            d_weight.addmm_(slope.T, hidden[part].float())
            if d_bias is not None:
                d_bias += slope.sum(0)
        return d_hidden, d_weight.to(weight.dtype), d_bias, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head) -> Tensor:
    """[n, V] in fp32."""
    logits = nn.functional.linear(hidden, weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)).float()
    if head.scale != 1.0:
        logits = logits.mul_(head.scale)
    return logits if head.softcap is None else torch.tanh(logits.div_(head.softcap)).mul_(head.softcap)


def _slope(logits: Tensor, normaliser: Tensor, targets: Tensor, head: Head) -> Tensor:
    """d logp / d (h Wᵀ + b), [n, V]: (1[v = y] - softmax) times the slope of scale and soft cap."""
    curve = None if head.softcap is None else 1 - (logits / head.softcap).square()
    slope = logits.sub_(normaliser).exp_().neg_()
    slope[torch.arange(len(slope), device=slope.device), targets] += 1
    if head.scale != 1.0:
        slope.mul_(head.scale)
    return slope if curve is None else slope.mul_(curve)


def _chunks(rows: int, vocabulary: int) -> Iterator[slice]:
    size = max(16, CHUNK_ELEMENTS // vocabulary)
    return (slice(start, start + size) for start in range(0, rows, size))


def token_logprobs(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """log p(target | hidden) for hidden [N, H] and targets [N]: [N] in fp32, differentiable in hidden, head weight and bias."""
    return _TokenLogprobs.apply(hidden, head.weight, head.bias, targets, head)  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True)
class TokenScores:
    """Scored tokens of a batch: N tokens in B branches."""

    logprobs: Tensor  # [N] fp32
    branch: Tensor  # [N]
    branches: int

    def per_branch(self) -> Tensor:
        """Sum of the log-probabilities of each branch, [B]."""
        return self.logprobs.new_zeros(self.branches).index_add(0, self.branch, self.logprobs)


class Scorer(nn.Module):
    """Scores the completions of examples under a causal language model, packed or (where packing is not exact) padded."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32, packed: bool = True) -> None:
        super().__init__()
        self.model, self.device, self.dtype, self.packed = model, device, dtype, packed

    def forward(self, examples: Sequence[Example]) -> TokenScores:
        """Score every completion token of `examples`, branches in their order."""
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return self.score_packed(examples) if self.packed else self._padded(examples)

    def score_packed(self, examples: Sequence[Example], width: int | None = None) -> TokenScores:
        """Score in the packed layout; `width` is the length of its rows, at least that of the longest example."""
        batch = pack(examples, width).to(self.device)
        causal = inner_model(self.model)
        out = causal.base_model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=_mask_for(causal, batch.mask),
            use_cache=False,  # with a cache transformers lets packed sequences see each other
        )
        hidden = out.last_hidden_state.flatten(0, 1)[batch.at]
        return TokenScores(token_logprobs(hidden, head_of(causal), batch.targets), batch.branch, batch.branches)

    def _padded(self, examples: Sequence[Example]) -> TokenScores:
        """One row per branch and the model's own logits: slow, and right for any causal language model."""
        pairs = [(e.prompt, branch) for e in examples for branch in e.branches]
        rows = [torch.tensor([*prompt.tolist(), *branch.tolist()]) for prompt, branch in pairs]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        prompts = torch.tensor([len(prompt) for prompt, _ in pairs], device=self.device)
        position = torch.arange(ids.shape[1], device=self.device)
        attended = position < lengths[:, None]
        scored = ((position >= prompts[:, None]) & attended)[:, 1:]
        logits = self.model(input_ids=ids, attention_mask=attended.long(), use_cache=False).logits[:, :-1].float()
        logprobs = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        return TokenScores(logprobs[scored], scored.nonzero()[:, 0], len(rows))


def _mask_for(model: Any, visible: Tensor) -> Tensor:
    """The mask in the form of the model's attention: eager attention adds it to the scores, the others take booleans."""
    if model.config._attn_implementation != "eager":
        return visible
    return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, torch.finfo(torch.float32).min)


def inner_model(model: nn.Module) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


@torch.no_grad()
def packing_error(scorer: Scorer, examples: Sequence[Example]) -> float:
    """Largest difference of log-probabilities between one packed row and one sequence at a time under the model's own head."""
    plain = Scorer(scorer.model, scorer.device, scorer.dtype, packed=False)
    with torch.autocast(scorer.device.type, dtype=scorer.dtype, enabled=scorer.dtype != torch.float32):
        together = scorer.score_packed(examples, width=sum(example.length for example in examples)).logprobs
    alone = torch.cat([plain([Example(e.prompt, (b,))]).logprobs for e in examples for b in e.branches])
    return float((together - alone).abs().nan_to_num(nan=math.inf).max())


def choose_layout(scorer: Scorer, examples: Sequence[Example]) -> str:
    """Start-up check on three examples in one row: keep packing only where it is exact. Returns a sentence for the report."""
    by_length = sorted(examples, key=lambda example: example.length)
    try:
        error = packing_error(scorer, [by_length[-1], *by_length[:2]])
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as failure:
        scorer.packed = False  # the model cannot take the packed layout at all
        return f"padded: the model refuses the packed layout ({type(failure).__name__}: {failure})"
    if error <= TOLERANCE[scorer.dtype]:
        return f"packed: differs from separate scoring by at most {error:.1e}"
    scorer.packed = False
    return f"padded: packing would change log-probabilities by {error:.1e}, above {TOLERANCE[scorer.dtype]:.0e}"
