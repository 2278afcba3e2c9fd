"""The task `chain` of `bench estimators`: long responses of a policy that mostly repeats its last token."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.estimators import Curve, read_curve
from posttrain.models.weight_sharing import keep_apart
from posttrain.peft.wrap import wrap
from posttrain.rewards.sources import Answered, RewardSources, Said
from posttrain.runtime.progress import Quiet
from posttrain.sampling.sampler import sample
from posttrain.training.loop import Job, train
from posttrain.training.ppo.actor_critic import ActorCritic, start_policy
from posttrain.training.ppo.critic import apart, new_critic
from posttrain.training.ppo.objective import PolicyOptimization, plan_of
from posttrain.training.ppo.rollout import Collector, Prompts
from posttrain.training.ppo.rollout_log import ROLLOUTS, SampleLog
from posttrain.training.ppo.stage import use_layout_for
from schemas.peft import Full
from schemas.ppo import PPO
from schemas.recipe import Compute

CPU = torch.device("cpu")
VOCABULARY, LENGTH, PROMPTS = 12, 200, 64
REPEATS = 11.0  # factor of the tied embeddings by which the last token is repeated with 96%
SECTION = {
    "algorithm": "ppo", "reward": {"source": "function", "name": "bench.estimators_chain:odd"}, "rollouts": 64, "epochs": 2,
    "minibatches": 4, "max_new_tokens": LENGTH, "temperature": 1.0, "learning_rate": 1e-3, "kl": {"coefficient": 0.0},
    "peft": {"method": "full"},
}  # fmt: skip


class Numbers:
    """Stands for a tokenizer: the text of a token is its number."""

    eos_token_id, pad_token_id = 0, 1

    @staticmethod
    def batch_decode(rows: list[list[int]], skip_special_tokens: bool) -> list[str]:
        """Numbers with blanks between them."""
        return [" ".join(map(str, row)) for row in rows]


def odd(answered: Answered) -> Said:
    """The share of odd tokens."""
    return Said(torch.tensor([float(np.mean(tokens % 2)) for tokens in answered.responses]))


def run(method: dict[str, Any], seed: int, iterations: int, out: Path, store: str | None) -> Curve:
    """Align with one method; what counts is the mean reward of an iteration's responses. No token ends a response."""
    spec = PPO.model_validate(SECTION | {"iterations": iterations} | method)
    torch.manual_seed(seed)
    base = LlamaForCausalLM(_config()).eval()
    base.model.embed_tokens.weight.data.mul_(REPEATS)
    critic = new_critic(base, spec, seed)
    policy = wrap(base, Full(method="full"), seed, "bench")
    if critic is not None:
        keep_apart(critic, policy)
    reference = start_policy(policy, spec, critic)
    scorer = ActorCritic(policy, CPU, temperature=spec.temperature).eval()
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(2, VOCABULARY, 3).astype(np.int32) for _ in range(PROMPTS)]
    use_layout_for(scorer, tokens)
    collect = Collector(
        spec=spec, seed=seed, scorer=scorer, reference=reference, sampler=sample, tokenizer=Numbers(), ends=(),  # type: ignore[arg-type]
        rewards=RewardSources({"reward_odd": (odd, 1.0)}), log=SampleLog(out / ROLLOUTS),
        prompts=Prompts([[{"role": "user", "content": "?"}]] * PROMPTS, tokens, [{}] * PROMPTS),
    )  # fmt: skip
    objective = PolicyOptimization(spec, collect, torch.float32, reference)
    compute, parts = Compute(device="cpu", checkpoint_seconds=1e9), apart(spec, lambda: sum(map(torch.numel, base.parameters())))
    began = time.process_time()
    train(Job("align", scorer, objective, plan_of(spec, seed), spec, compute, out, Quiet(), rounds=objective, apart=parts))
    return read_curve(out, "score", began)


def _config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, eos_token_id=None, pad_token_id=1, bos_token_id=None,
        max_position_embeddings=512,
    )  # fmt: skip
