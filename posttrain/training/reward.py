"""The reward stage: Bradley-Terry on the preference pairs, beside the policy; centred, measured on held-out pairs, and saved."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from posttrain.checkpoints.load import load_config, load_model, load_tokenizer
from posttrain.data.choose import row_keys, row_sources, stratified
from posttrain.data.encode import Encoded, encode_conversations
from posttrain.data.encode_pairs import encode_pairs
from posttrain.data.packing import Example, prompt_groups
from posttrain.models.architectures import longest_sequence, refuse_beyond
from posttrain.models.blocks import architecture
from posttrain.models.parameters import parameter_count
from posttrain.peft.methods import ENCODER
from posttrain.rewards.checkpoint import save_reward
from posttrain.rewards.encoder import joining_pairs, load_encoder, marks_responses, pair_tokenizer, scratch_encoder
from posttrain.rewards.rows import columns_of
from posttrain.rewards.scorer import RewardScorer, until_padding, use_fastest_layout, with_score
from posttrain.runtime.device import resolve_device, resolve_dtype
from posttrain.runtime.distributed import is_main
from posttrain.runtime.peak_memory import measured
from posttrain.runtime.progress import counted
from posttrain.runtime.store import Built
from posttrain.scoring.reference import score_branches
from posttrain.scoring.token_budget import scoring_tokens
from posttrain.statistics.calibration import correlation, expected_calibration_error, reliability
from posttrain.statistics.intervals import share_interval, wins
from posttrain.training.batches import by_rows
from posttrain.training.dropout import without_dropout
from posttrain.training.fit import VALIDATION_EXAMPLES, fit, kept_examples, new_job, places
from posttrain.training.learning_rates import settled
from posttrain.training.objectives import BradleyTerry
from posttrain.training.request import StageRequest
from posttrain.training.rows import record_validation
from schemas.reward import RewardTraining, ScratchEncoder

FIELD = "data.preferences"
REPORT = "reward.json"
POINTS = 400  # responses in the report's figure of length against reward


@dataclass(frozen=True)
class Start:
    """What the stage starts from."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    encode: Callable[[pl.DataFrame], Encoded]
    new: tuple[str, ...] = ()
    """Modules that the model's checkpoint lacks."""
    pad: int | None = None
    """Padding token of a decoder, which is not read at the end of a response; an encoder is told by a mask what is padding."""

    def read(self, examples: Sequence[Example]) -> list[Example]:
        """The examples as rewards are read off them."""
        if self.pad is None:
            return list(examples)
        return [Example(e.prompt, tuple(until_padding(branch, self.pad) for branch in e.branches)) for e in examples]


@measured
def reward(request: StageRequest, spec: RewardTraining, pairs: pl.DataFrame) -> Built:
    """Train a reward model that ranks chosen above rejected; saves `reward/` and what was measured on held-out pairs."""
    start = _start(request, spec)
    without_dropout(start.model)
    spec = settled("reward", spec, spec.peft, lambda: parameter_count(start.model))
    rows = pairs.filter(split="train")
    encoded = start.encode(rows)
    examples = start.read(kept_examples(request, rows, encoded))
    held_out, unseen = _held_out(start, pairs)
    model = with_score(start.model, spec.peft, request.recipe.seed, "reward.peft", start.tokenizer, start.new)
    device, types = resolve_device(request.recipe.compute), marks_responses(start.tokenizer)
    scorer = RewardScorer(model, device, resolve_dtype(request.recipe.compute), token_types=types).eval()
    layout = use_fastest_layout(scorer, examples)
    objective = BradleyTerry(examples, margins(spec, _read_rows(rows, encoded)))
    validation = _validation(request, spec, held_out, unseen) if held_out else None
    plan = by_rows(len(examples), spec.batch_size, spec.epochs, request.recipe.seed)
    named = functools.partial(places, request, pairs)
    metrics = fit(request, new_job(request, spec, scorer, objective, plan, validation=validation, places=named), layout)
    mean = float(_scores(request, scorer, examples, "centre").double().mean()) if spec.centre else 0.0
    metrics |= {"reward_mean": mean}
    if held_out:
        metrics |= _held_out_metrics(request, _scores(request, scorer, held_out, "held-out pairs") - mean, held_out, unseen)
    if is_main():
        of_policy = spec.model is None
        save_reward(model, start.tokenizer, spec.peft, request.policy, mean, of_policy, request.out / "reward")
    adapter = {} if spec.peft.method == "full" else {"adapter": "reward/adapter"}
    return Built(metrics, {"reward": "reward", **adapter})


def _held_out(start: Start, pairs: pl.DataFrame) -> tuple[list[Example], pl.DataFrame]:
    """The held-out pairs that can be read, and their rows."""
    rows = pairs.filter(split="holdout")
    encoded = start.encode(rows)
    return start.read(encoded.examples), _read_rows(rows, encoded)


def _read_rows(rows: pl.DataFrame, encoded: Encoded) -> pl.DataFrame:
    """Those that became examples, in the order of these."""
    left_out = {row for row, _ in encoded.left_out}
    return rows[[row for row in range(len(rows)) if row not in left_out]]


def margins(spec: RewardTraining, rows: pl.DataFrame) -> Tensor:
    """[rows] by how much chosen should win: the same for all, and more the further the scores of a pair are apart."""
    apart = (rows["score_chosen"] - rows["score_rejected"]).fill_null(0.0) if "score_chosen" in rows.columns else None
    graded = torch.zeros(len(rows)) if apart is None else torch.from_numpy(apart.to_numpy().astype(np.float32).copy())
    return spec.margin + spec.margin_per_score * graded


def _chosen(rows: pl.DataFrame, count: int) -> list[int]:
    return stratified(row_keys(rows), row_sources(rows), count)


def _validation(request: StageRequest, spec: RewardTraining, held_out: Sequence[Example], rows: pl.DataFrame) -> BradleyTerry:
    """On some of the held-out pairs; `rows` are theirs."""
    chosen = _chosen(rows, VALIDATION_EXAMPLES)
    examples = [held_out[row] for row in chosen]
    record_validation(request.out, request.progress, rows[chosen], rows, examples)
    return BradleyTerry(examples, margins(spec, rows[chosen]))


def _start(request: StageRequest, spec: RewardTraining) -> Start:
    """The model, its tokenizer and how it reads pairs. `request.policy` is where its weights, or its tokenizer, come from."""
    config = load_config(request.policy)
    if isinstance(spec.model, ScratchEncoder) or architecture(config) == ENCODER:
        return _start_encoder(request, spec, config)
    refuse_beyond(longest_sequence(config) - 1, "reward", "max_length", spec.max_length)  # see `reward_scoring.END`
    tokenizer = load_tokenizer(request.policy)
    encode = functools.partial(
        encode_conversations, tokenizer=tokenizer, max_length=spec.max_length, field_name=FIELD, overlong=spec.overlong
    )
    pad: Any = tokenizer.pad_token_id
    return Start(load_model(request.policy, resolve_device(request.recipe.compute)), tokenizer, encode, pad=pad)


def _start_encoder(request: StageRequest, spec: RewardTraining, config: PreTrainedConfig) -> Start:
    device, seed = resolve_device(request.recipe.compute), request.recipe.seed
    if isinstance(spec.model, ScratchEncoder):
        tokenizer = joining_pairs(load_tokenizer(request.policy))
        encoder = scratch_encoder(spec.model, tokenizer, spec.max_length, device, seed)
    else:
        refuse_beyond(longest_sequence(config), "reward", "max_length", spec.max_length)
        tokenizer, encoder = pair_tokenizer(request.policy), load_encoder(request.policy, device, seed)
    encode = functools.partial(encode_pairs, tokenizer=tokenizer, max_length=spec.max_length, overlong=spec.overlong)
    return Start(encoder.model, tokenizer, encode, encoder.new)


def _scores(request: StageRequest, scorer: RewardScorer, examples: list[Example], what: str) -> Tensor:
    """[pairs, 2] before centring."""
    with torch.no_grad():
        budget = scoring_tokens(scorer.device)
        return score_branches(scorer, examples, budget, counted(request.progress, f"reward: {what}", len(examples)))


def by_subset(margins: NDArray[np.float64], rows: pl.DataFrame, groups: Sequence[int]) -> list[dict[str, Any]]:
    """Accuracy on the pairs of each subset: of their column `subset`, as RewardBench has it, else of their source.

    Nothing where there is one alone. `margins` [pairs] and `groups`, the prompts, are in the order of `rows`.
    """
    named = [columns.get("subset") or columns.get("file") or "" for columns in columns_of(rows)]
    places: dict[str, list[int]] = {}
    for place, name in enumerate(named):
        places.setdefault(str(name), []).append(place)
    found = []
    for name, chosen in sorted(places.items()) if len(places) > 1 else ():
        accuracy = share_interval(wins(margins[chosen]).tolist(), groups=[groups[place] for place in chosen])
        found.append({"subset": name, "pairs": len(chosen), "accuracy": accuracy.value, "interval": accuracy.interval})
    return found


def _held_out_metrics(request: StageRequest, rewards: Tensor, pairs: list[Example], rows: pl.DataFrame) -> dict[str, float]:
    """Metrics of rewards [pairs, 2] on held-out pairs and their rows, with what the report draws in `reward.json`."""
    values, lengths = rewards.double().numpy(), np.array([[len(b) for b in pair.branches] for pair in pairs], np.float64)
    margins = values[:, 0] - values[:, 1]
    accuracy = share_interval(wins(margins).tolist(), groups=prompt_groups(pairs))
    points = reliability(margins)
    numbers = {
        **accuracy.flat("held_out_accuracy"),
        "held_out_margin": float(margins.mean()),
        "held_out_calibration_error": expected_calibration_error(points),
        "held_out_reward_mean": float(values.mean()),
        "held_out_reward_std": float(values.std()),
        "held_out_length_correlation": correlation(lengths.ravel(), values.ravel()),
    }
    shown = _chosen(rows, POINTS // 2)
    points_of = zip(lengths[shown].ravel(), values[shown].ravel(), strict=True)
    drawn = [{"tokens": int(n), "reward": r} for n, r in points_of]
    document = {
        "pairs": len(pairs),
        **numbers,
        "subsets": by_subset(margins, rows, prompt_groups(pairs)),
        "reliability": [asdict(point) for point in points],
        "responses": drawn,
    }
    (request.out / REPORT).write_text(json.dumps(document, indent=1))
    return numbers
