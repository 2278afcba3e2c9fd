"""The reference policy for free: it is the policy at step 0.

The initial *trainable* tensors are cloned and swapped in when the reference is asked for; this is exact for every PEFT method and
for full fine-tuning, where disabling an adapter would be neither. Its log-probabilities are computed once and cached by content,
so that a sweep over β or the learning rate never computes them again.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from posttrain.data.packing import Example, micro_batches
from posttrain.peft.wrap import trainable_state
from posttrain.runtime.distributed import from_main, is_main, summed, turns
from posttrain.runtime.trees import Irregular, read_regular
from posttrain.runtime.writing import write_atomically
from posttrain.scoring.scorer import Scorer

GROUP_PASSES = 4  # forward passes whose scores are saved together


class Reference:
    """A copy of the trainable tensors, taken when this is made."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.initial = {name: tensor.detach().clone() for name, tensor in trainable_state(model).items()}

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the model computes what it did when this was made."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange storage by pointer: no tensor is copied."""
        own = trainable_state(self.model)
        for name, parameter in ((name, own[name]) for name in self.initial):
            parameter.data, self.initial[name] = self.initial[name], parameter.data

    @torch.no_grad()
    def follow(self, mix: float) -> None:
        """Move the copy to `mix` · the model's tensors + (1 - mix) · its own."""
        own = trainable_state(self.model)
        for name, tensor in self.initial.items():
            tensor.lerp_(own[name], mix)

    def state(self) -> dict[str, Tensor]:
        """The copy, for a checkpoint."""
        return {name: tensor.cpu() for name, tensor in self.initial.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take the tensors of a `state`."""
        for name, tensor in self.initial.items():
            tensor.copy_(state[name])

    def digest(self) -> str:
        """SHA-256 of the cloned tensors; the frozen ones are covered by the digest of the checkpoint."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.initial.items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


@torch.no_grad()
def score_branches(
    scorer: Scorer, examples: Sequence[Example], budget: int, on_rows: Callable[[int], None] = lambda n: None
) -> Tensor:
    """Summed log-probability of every branch, [examples, branches per example] fp32 on the CPU; `budget` tokens at a time.

    Processes that train together share the work, and all return all scores: to the bit those that one alone would compute.
    """
    groups = micro_batches(range(len(examples)), np.array([example.length for example in examples]), budget)
    scores = torch.zeros(len(examples), len(examples[0].branches))
    for index, counts, turn in turns(groups):
        group = groups[index]
        found = scorer([examples[i] for i in group]).per_branch().view(len(group), -1).cpu()
        if counts:
            scores[group] = found
        on_rows(sum(map(len, turn)))
    return summed(scores)


def cache_key(weights: Sequence[str], examples: Sequence[Example], scorer: Scorer, budget: int) -> str:
    """Identity of a set of reference scores: weights, token ids and which are scored, arithmetic and batching (which moves the
    last bits)."""
    digest = hashlib.sha256(repr((tuple(weights), str(scorer.dtype), scorer.device.type, scorer.layout, budget)).encode())
    for example in examples:
        for part in (example.prompt, *example.branches):
            digest.update(len(part).to_bytes(4, "little"))
            digest.update(part.tobytes())
        digest.update(b"" if example.trained is None else example.trained.tobytes())
    return digest.hexdigest()[:32]


def reference_scores(
    folder: Path, weights: Sequence[str], scorer: Scorer, examples: Sequence[Example], budget: int,
    on_rows: Callable[[int], None] = lambda n: None,
) -> tuple[Tensor, int]:  # fmt: skip
    """Scores of all examples as `score_branches` gives them, and how many of them were found in `folder`.

    Each group of examples is scored apart from the others and saved at once under its own key, so that a run that was killed goes
    on behind the last one, with the same bits.
    """
    parts, found = [], 0
    for group in _groups(examples, GROUP_PASSES * budget):
        compute = functools.partial(score_branches, scorer, group, budget, on_rows)
        shape = len(group), len(group[0].branches)
        scores, known = cached_scores(folder, cache_key(weights, group, scorer, budget), compute, shape)
        if known:
            on_rows(len(group))
        found += known * len(group)
        parts.append(scores)
    return torch.cat(parts), found


def _groups(examples: Sequence[Example], tokens: int) -> Iterator[Sequence[Example]]:
    """Runs of examples, in their order, each ended by the example that makes it `tokens` long: decided by the examples alone."""
    start = length = 0
    for index, example in enumerate(examples, 1):
        length += example.length
        if length >= tokens or index == len(examples):
            yield examples[start:index]
            start, length = index, 0


def cached_scores(folder: Path, key: str, compute: Callable[[], Tensor], shape: tuple[int, int]) -> tuple[Tensor, bool]:
    """The scores of `key`, of this shape, and whether they were found; what is computed is written whole, by one process."""
    path = folder / f"{key}.safetensors"
    found = from_main(_intact_scores(path, key, shape))  # a file may appear between two processes' looks
    if found is not None:
        return found, True
    scores = compute()
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save({"scores": scores}, {"digest": _digest(key, scores)}))
    return scores, False


def _intact_scores(path: Path, key: str, shape: tuple[int, int]) -> Tensor | None:
    """The scores in a file, where they are finite, of this shape, and have their digest; older versions wrote none."""
    try:
        content = read_regular(path)
        scores = load(content)["scores"]
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        digest = header.get("__metadata__", {}).get("digest")
    except (OSError, Irregular, SafetensorError, KeyError, ValueError):
        return None
    sound = scores.shape == shape and scores.dtype == torch.float32 and bool(scores.isfinite().all())
    return scores if sound and digest in (None, _digest(key, scores)) else None


def _digest(key: str, scores: Tensor) -> str:
    """Of the scores and of what they are scores of."""
    return hashlib.sha256(key.encode() + scores.contiguous().numpy().tobytes()).hexdigest()
