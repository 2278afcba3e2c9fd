"""The largest memory that a stage will hold on its device, found by running the stage's own code on tensors without numbers.

What runs is the scorer, the objective and the optimizer that train, on a plan's largest micro-batch; `sizing.py` adds what was
measured of libraries' own buffers and the allocator's waste. On a CPU this was compared with measured peaks; for CUDA the same
trace is made in half precision with CUDA's budget of tokens, on fake tensors of the CPU, and no GPU was there to compare it with.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig

from posttrain.data.packing import Example, micro_batches
from posttrain.forecast.depth import peaks_of
from posttrain.forecast.phases import Arithmetic, Peak
from posttrain.models.architectures import auto_class
from posttrain.models.blocks import all_linear, architecture
from posttrain.models.parameters import parameter_count
from posttrain.models.routing import without_routing
from posttrain.peft.methods import ENCODER
from posttrain.peft.wrap import wrap
from posttrain.rewards.scorer import RewardScorer, with_score
from posttrain.runtime.fake_tensors import LiveBytes, give_tensors, pretending, without_draws
from posttrain.sampling.decoding import PROMPT_TOKENS, can_decode, encode
from posttrain.sampling.multinomial import draw
from posttrain.scoring.layout_choice import take_first_layout, with_few_targets
from posttrain.scoring.output_head import BLOCK_ELEMENTS, has_matrix
from posttrain.scoring.products import fp32_logits
from posttrain.scoring.reference import Reference
from posttrain.scoring.scorer import PLAIN, Scorer, inner_model
from posttrain.scoring.token_budget import rollout_tokens, scoring_tokens, training_tokens
from posttrain.training.batches import Plan
from posttrain.training.data_parallel import shared
from posttrain.training.dropout import set_dropout
from posttrain.training.fit import checkpoint_activations
from posttrain.training.half_precision import hold_frozen
from posttrain.training.objectives import Objective
from posttrain.training.optimizer import Updates
from schemas.model import Quantization
from schemas.training import Full, Optimization, Peft

HALF = (torch.bfloat16, torch.float16)
FUSED = 2048  # tokens of an example that stands for several
SHALLOW = 5  # blocks; in fewer a pass over prompts takes more than the cache that is made after it, and in a deep model less
SHORT = Example(np.zeros(2, np.int32), (np.zeros(2, np.int32), np.zeros(2, np.int32)))
BYTES = {"int8": 1.0, "nf4": 0.52}  # of a quantised number with its share of the scales


@dataclass(frozen=True)
class Training:
    """A training stage as far as its memory depends on it."""

    config: PreTrainedConfig
    spec: Optimization
    peft: Peft
    objective: Objective
    plan: Plan
    compared: bool
    """Whether the initial policy scores the examples first."""
    rewards: bool = False
    """Whether a reward model is trained, which scores the examples at the end."""
    quantization: Quantization | None = None
    """How the frozen weights are held."""
    rollouts: bool = False
    """Whether the examples are responses that the policy sampled."""
    new_tokens: tuple[int, ...] = ()
    """Tokens whose embeddings it may have to train."""

    def model(self) -> nn.Module:
        """The model that it trains, without numbers."""
        dropout = getattr(self.spec, "dropout", 0.0)  # only SFT and pretraining keep it
        return rewarding(self.config, self.peft) if self.rewards else wrapped(self.config, self.peft, dropout, self.new_tokens)

    def largest(self, on: Arithmetic, budget: int) -> tuple[list[int], bool]:
        """The largest micro-batch of all steps, and whether others of its step follow, while which its gradients live."""
        lengths = np.array([example.length for example in self.objective.examples])
        shares = [shared(rows, lengths, on.processes)[0] for rows in self.plan]
        steps = [micro_batches(rows, lengths, budget) for rows in shares if rows]
        first, *others = max(steps, key=lambda groups: int(lengths[groups[0]].sum()))
        return first, bool(others)


def wrapped(config: PreTrainedConfig, peft: Peft, dropout: float | None = None, new_tokens: tuple[int, ...] = ()) -> nn.Module:
    """The model of a stage on the meta device, which holds no numbers."""
    with torch.device("meta"):
        model = auto_class(config).from_config(copy.deepcopy(config), dtype=torch.float32)  # a method may set flags in it
        set_dropout(model, dropout)
        return wrap(model, peft, 0, "peft", new_tokens=new_tokens)


def rewarding(config: PreTrainedConfig, peft: Peft) -> nn.Module:
    """Likewise the model of the reward stage."""
    config, kind = copy.deepcopy(config), auto_class(config)
    if architecture(config) == ENCODER:
        kind, config.num_labels = AutoModelForSequenceClassification, 1
    with torch.device("meta"):
        model = kind.from_config(config, dtype=torch.float32)  # as loaded, whatever the files hold
        set_dropout(model, 0.0)
        return with_score(model, peft, 0, "peft")


def training_peaks(stage: Training, on: Arithmetic, model: nn.Module | None = None) -> list[Peak]:
    """The phases of a training stage: start-up check, scores where it has any, steps; `model`: `stage.model()`, if it is made."""
    budget = (rollout_tokens if stage.rollouts else training_tokens)(model or stage.model(), on.device, on.dtype)
    least = getattr(stage.peft, "layers", 0)
    peaks = peaks_of(stage.config, lambda config: _traced(replace(stage, config=config), on, budget), least)
    if stage.quantization:
        peaks = _quantized(peaks, stage.config, stage.quantization, on)
    return [_on_device(peak, on) for peak in peaks]


def _traced(stage: Training, on: Arithmetic, budget: int) -> list[Peak]:
    model = stage.model()
    with pretending() as live:
        scorer = _scorer(model, on, live, RewardScorer if stage.rewards else Scorer)
        peaks = [_start_up(scorer, live, stage.objective.examples)] if scorer.layout != ENCODER else []
        if not (stage.quantization or stage.rewards or stage.rollouts):
            hold_frozen(model, stage.peft, scorer.dtype)
        if stage.compared:
            peaks.append(_reference(scorer, live, stage.objective.examples, scoring_tokens(on.device)))
        if stage.rewards:
            peaks.append(_scoring(scorer, live, stage.objective.examples, scoring_tokens(on.device)))
        if stage.spec.gradient_checkpointing:
            checkpoint_activations(model, "gradient_checkpointing")
        peaks.append(_steps(scorer, live, stage, *stage.largest(on, budget)))
    return peaks


def _quantized(peaks: Sequence[Peak], config: PreTrainedConfig, kind: Quantization, on: Arithmetic) -> list[Peak]:
    """The phases with the linear layers in fewer bits; they are read in fp32 first, on CUDA into the host's memory."""
    exact = wrapped(config, Full(method="full"))
    numbers = sum(layer.weight.numel() for layer in all_linear(exact).values())
    less = int(numbers * (4 - BYTES[kind]))
    reading = Peak("reading the weights", weights=4 * parameter_count(exact))
    held = [replace(peak, weights=peak.weights - less) for peak in peaks]
    return [reading, *held] if on.device.type == "cpu" else held


def _scorer(model: nn.Module, on: Arithmetic, live: LiveBytes, kind: type[Scorer] = Scorer) -> Scorer:
    """A scorer in the first layout that the model does not refuse, or in the one that is left where none can have the head."""
    give_tensors(model)
    dtype = torch.bfloat16 if on.dtype in HALF else on.dtype
    scorer = kind(model, torch.device("cpu"), dtype).eval()
    inner = inner_model(model)
    if kind is Scorer and not has_matrix(inner):
        scorer.layout = PLAIN
    elif scorer.layout == "packed":
        take_first_layout(scorer, [SHORT])
    return scorer


@torch.no_grad()
def _start_up(scorer: Scorer, live: LiveBytes, examples: Sequence[Example]) -> Peak:
    """The check of the layout scores an example with the model's own logits, [tokens, vocabulary] in fp32."""
    weights = live.begin()
    longest = with_few_targets(max(examples, key=lambda example: example.length))
    type(scorer)(scorer.model, scorer.device, torch.float32, PLAIN)([Example(longest.prompt, longest.branches[:1])])
    return Peak("start-up check", weights=weights, activations=live.peak - weights)


@torch.no_grad()
def _reference(scorer: Scorer, live: LiveBytes, examples: Sequence[Example], budget: int) -> Peak:
    """The copy that the reference is known by is gone before the scoring; whichever of the two is larger counts."""
    weights = live.begin()
    reference = Reference(scorer.model)
    copied = live.live - weights
    del reference
    live.begin()
    _score_largest(scorer, examples, budget)
    scored = live.peak - weights
    if copied > scored:
        return Peak("copy for the reference", weights=weights, reference=copied)
    return Peak("reference scoring", weights=weights, activations=scored)


def _steps(scorer: Scorer, live: LiveBytes, stage: Training, rows: Sequence[int], accumulated: bool) -> Peak:
    """An optimizer step that finds the optimizer's state in memory, and, `accumulated`, the gradients of another micro-batch."""
    scorer.train()
    without_draws(scorer)
    weights = live.begin()
    updates = Updates(scorer, stage.spec)
    for parameter in updates.parameters:
        parameter.grad = torch.zeros_like(parameter)
    gradients = live.live - weights
    updates.optimizer.step()
    optimizer = live.live - weights - gradients
    if not accumulated:
        updates.optimizer.zero_grad(set_to_none=True)
    live.begin()
    loss, _ = stage.objective.loss(scorer([stage.objective.examples[row] for row in rows]), rows)
    passing = live.freed
    updates.backward(loss / stage.objective.units(rows))
    updates.optimizer.step()
    activations = live.peak - weights - optimizer - gradients
    return Peak("training", weights=weights, gradients=gradients, optimizer=optimizer, activations=activations, passing=passing)


@torch.no_grad()
def _scoring(scorer: Scorer, live: LiveBytes, examples: Sequence[Example], budget: int) -> Peak:
    """Scoring without gradients."""
    weights = live.begin()
    _score_largest(scorer, examples, budget)
    return Peak("scoring", weights=weights, activations=live.peak - weights)


def _score_largest(scorer: Scorer, examples: Sequence[Example], budget: int) -> None:
    lengths = np.array([example.length for example in examples])
    groups = micro_batches(range(len(examples)), lengths, budget)
    group = [examples[row] for row in max(groups, key=lambda rows: int(lengths[rows].sum()))]
    scorer(_fused(group) if scorer.layout == "packed" else group).per_branch()


def _fused(examples: Sequence[Example]) -> list[Example]:
    """Few long examples in the place of many: in a packed row the same number of tokens and targets, traced in less time."""
    found: list[list[Example]] = [[]]
    for example in examples:
        if sum(each.length for each in found[-1]) > FUSED:
            found.append([])
        found[-1].append(example)
    prompts = (np.concatenate([example.prompt for example in group]) for group in found)
    branches = (zip(*(example.branches for example in group), strict=True) for group in found)
    return [Example(prompt, tuple(map(np.concatenate, of_all))) for prompt, of_all in zip(prompts, branches, strict=True)]


def evaluation_peaks(
    config: PreTrainedConfig, prompts: Sequence[int], new_tokens: int, examples: Sequence[Example], on: Arithmetic
) -> list[Peak]:
    """The phases in which one policy is evaluated: sampling answers to `prompts` (lengths of one batch), and scoring."""

    def trace(config: PreTrainedConfig) -> list[Peak]:
        model = wrapped(config, Full(method="full"))
        if on.device.type == "cuda":  # frozen, as in evaluation: autocast keeps a copy in half precision of what is not. On a CPU
            model.requires_grad_(False)  # as much more was measured (SmolLM2 in bfloat16, 2.5 GB), which no trace sees
        with pretending() as live, torch.no_grad():
            scorer = _scorer(model, on, live)
            peaks = [_start_up(scorer, live, examples), _scoring(scorer, live, examples, scoring_tokens(on.device))]
            with scorer.arithmetic(), fp32_logits(inner_model(model)):
                return [*peaks, *_sampling(inner_model(model), live, prompts, new_tokens, on.device)]

    return [_on_device(peak, on) for peak in peaks_of(config, trace, SHALLOW)]


def _sampling(model: Any, live: LiveBytes, prompts: Sequence[int], new_tokens: int, device: torch.device) -> list[Peak]:
    """The first pass over prompts of these lengths, and the last one, of one token after all others are in the cache."""
    weights = live.begin()
    if can_decode(model):
        rows, last = _encoded(model, sorted(prompts, reverse=True), new_tokens, PROMPT_TOKENS[device.type])
        reading = Peak("reading prompts", weights=weights, activations=live.peak - weights)
        live.begin()
        draw(rows.advance(model, last), 1.0, torch.zeros(len(prompts), 2, dtype=torch.float64))
    else:
        shape = (len(prompts), max(prompts))
        _next_token(model, _inputs(model, shape, 1))
        reading = Peak("reading prompts", weights=weights, activations=live.peak - weights)
        cache = _next_token(model, _inputs(model, shape, new_tokens))
        live.begin()
        _next_token(model, {**_inputs(model, shape, 1, new_tokens), "past_key_values": cache})
    return [reading, Peak("sampling", weights=weights, activations=live.peak - weights)]


def _encoded(model: Any, prompts: Sequence[int], new_tokens: int, budget: int) -> tuple[Any, Tensor]:
    """The prompts in our own loop as they are before the last token; its cache has space for all tokens from the start."""
    rows, last = encode(model, [np.zeros(n, np.int32) for n in prompts], range(len(prompts)), new_tokens, budget)
    for layer in rows.cache.layers:
        layer.fill(layer.filled + new_tokens - 1)
    return rows, last


def _next_token(model: Any, inputs: dict[str, Any]) -> Any:
    """Sample one token [B] as `generate` does: fp32 copies of the logits, warped, then normalised; returns the cache."""
    out = model(
        **inputs, use_cache=True, **without_routing(model), **({} if model.config.is_encoder_decoder else {"logits_to_keep": 1})
    )
    logits = out.logits[:, -1].to(torch.float32, copy=True)
    torch.multinomial((logits / 1.0).softmax(-1), 1)
    return out.past_key_values


def _inputs(model: Any, shape: tuple[int, int], new: int, seen: int = 0) -> dict[str, Any]:
    """What a pass over prompts and `new - 1` more tokens reads; with `seen`, over one token after these."""
    rows, prompt = shape
    attended = torch.ones(rows, prompt if model.config.is_encoder_decoder else prompt + (seen or new - 1), dtype=torch.long)
    if not model.config.is_encoder_decoder:
        return {"input_ids": torch.zeros(rows, 1 if seen else attended.shape[1], dtype=torch.long), "attention_mask": attended}
    prompts = torch.zeros(rows, prompt, dtype=torch.long)
    return {"input_ids": prompts, "attention_mask": attended, "decoder_input_ids": torch.zeros(rows, new, dtype=torch.long)}


def _on_device(peak: Peak, on: Arithmetic) -> Peak:
    """The head's block of logits is larger on CUDA than it was in the trace: the products and their fp32 copy."""
    return replace(peak, activations=peak.activations + (2 * 4 * BLOCK_ELEMENTS["cuda"] if on.device.type == "cuda" else 0))
