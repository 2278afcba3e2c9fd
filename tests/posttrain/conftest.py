"""Tiny models, tokenizers and examples that the tests of posttrain share: factories, since tests import none of each other."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, T5Tokenizer

from posttrain.data.packing import Example
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from posttrain.models.policy import Policy
from posttrain.models.weight_sharing import keep_apart
from posttrain.peft.wrap import wrap
from posttrain.rewards.sources import RewardSources, Said
from posttrain.runtime.progress import Progress, Quiet, reporting
from posttrain.sampling.sampler import sample
from posttrain.scoring.layout_choice import choose_layout
from posttrain.scoring.scorer import inner_model
from posttrain.training.loop import Job
from posttrain.training.ppo.actor_critic import ActorCritic, start_policy
from posttrain.training.ppo.critic import apart, new_critic
from posttrain.training.ppo.held_out import HeldOutRewards
from posttrain.training.ppo.objective import PolicyOptimization, plan_of
from posttrain.training.ppo.rollout import Collector, Prompts
from posttrain.training.ppo.rollout_log import ROLLOUTS, SampleLog
from posttrain.training.request import StageRequest
from posttrain.training.reward import reward
from schemas.load import validate_recipe
from schemas.ppo import PPO
from schemas.recipe import Compute
from schemas.reward import RewardTraining
from schemas.training import Full, LoRA

TEXTS = [
    "User:\nWrite a review of the hotel.\n\nAssistant:\nThe hotel was clean and the staff was kind.",
    "Hello, world! 1, 2, 3.",
]


@pytest.fixture(scope="session")
def _trained_tokenizer():
    return prepare_tokenizer(train_tokenizer(TEXTS * 3, 320))


@pytest.fixture
def tokenizer(_trained_tokenizer):
    """A byte-level BPE of 320 tokens with the default chat template; EOS is token 0, padding token 1. Free to be changed."""
    return copy.deepcopy(_trained_tokenizer)


@pytest.fixture
def with_bos(tokenizer):
    """The tokenizer with a BOS token, which it puts before every text by itself, and no chat template."""
    tokenizer.add_special_tokens({"bos_token": "<|bos|>"})
    before = ("<|bos|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|bos|> $A", special_tokens=[before])
    tokenizer.chat_template = None
    return tokenizer


@pytest.fixture
def t5_tokenizer():
    """T5's tokenizer on single characters: padding is 0, EOS 1, which it puts after every text; line breaks become blanks."""
    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.:,?!0123456789"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((c, -3.0) for c in characters)]
    return prepare_tokenizer(T5Tokenizer(vocab=pieces, extra_ids=0))


@pytest.fixture(scope="session")
def tiny_llama():
    """Builds a Llama with grouped-query attention and tied embeddings."""

    def build(vocabulary: int = 97, seed: int = 0, **changes) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        shape |= {"num_key_value_heads": 2, "tie_word_embeddings": True}
        shape |= {"eos_token_id": 0, "pad_token_id": 1, "bos_token_id": None}
        return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **shape | changes)).eval()

    return build


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tiny_llama, _trained_tokenizer):
    """A folder with a tiny model and its tokenizer. Shared: copy it before changing it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_llama(len(_trained_tokenizer), initializer_range=0.2).save_pretrained(folder)
    _trained_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def random_examples():
    """Builds examples from (prompt length, branch lengths …) with tokens below the vocabulary size."""

    def build(sizes, vocabulary: int = 97, seed: int = 0) -> list[Example]:
        rng = np.random.default_rng(seed)
        drawn = [[rng.integers(2, vocabulary, n).astype(np.int32) for n in row] for row in sizes]
        return [Example(prompt, tuple(branches)) for prompt, *branches in drawn]

    return build


@pytest.fixture(scope="session")
def lora():
    """Builds a small LoRA section of a recipe."""

    def build(**changes) -> LoRA:
        return LoRA(**{"method": "lora", "r": 4, "alpha": 8, "target_modules": ("q_proj", "v_proj")} | changes)

    return build


@pytest.fixture(scope="session")
def chi_square():
    """Measures how far counts are from probabilities: Pearson's statistic in standard deviations from its expectation.

    Cells with less than 5 expected counts are taken together.
    """

    def distance(counts: np.ndarray, p: np.ndarray) -> float:
        expected = p * counts.sum()
        cells = expected >= 5
        if (rest := expected[~cells].sum()) >= 5:
            counts, expected = np.append(counts[cells], counts[~cells].sum()), np.append(expected[cells], rest)
        else:
            counts, expected = counts[cells], expected[cells]
        freedom = len(counts) - 1
        return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))

    return distance


class Words:
    """Stands for a tokenizer: its tokens are their numbers."""

    eos_token_id, pad_token_id = 0, 1

    @staticmethod
    def batch_decode(rows, skip_special_tokens):
        return [" ".join(map(str, row)) for row in rows]


@pytest.fixture(scope="session")
def ppo_section():
    """Builds a small alignment section with PPO."""

    def build(**changes) -> PPO:
        given = {
            "algorithm": "ppo", "reward": {"source": "function", "name": "posttrain.data.samples:sentiment"}, "iterations": 3,
            "rollouts": 8, "epochs": 2, "minibatches": 2, "max_new_tokens": 6, "temperature": 1.0, "learning_rate": 1e-2,
            "schedule": "constant", "warmup_share": 0.0,
        }  # fmt: skip
        small = {"value_model": "trunk"} if changes.get("advantage", "gae") == "gae" else {}
        return PPO.model_validate(given | small | changes)

    return build


@pytest.fixture(scope="session")
def share_of_good():
    """A reward that a policy of random tokens can raise: the share of tokens below 10."""
    return lambda answered: torch.tensor([float(np.mean(tokens < 10)) for tokens in answered.responses])


@pytest.fixture
def ppo_job(ppo_section, share_of_good, tiny_llama, tmp_path):
    """Builds a job of PPO with changes of the section, on random prompts: (job, objective, reference)."""

    def build(name: str = "run", reward=share_of_good, model=None, method=None, job=None, prompts=12, held_out=False, **changes):
        spec = ppo_section(**changes)
        base = tiny_llama() if model is None else model
        critic = new_critic(base, spec, 0)
        policy = wrap(base, method or Full(method="full"), 0, "alignment.peft")
        if critic is not None:
            keep_apart(critic, policy)
        reference = start_policy(policy, spec, critic)
        scorer = ActorCritic(policy, torch.device("cpu"), temperature=spec.temperature).eval()
        scorer.entropy, scorer.trains_trunk = spec.entropy_coefficient > 0, spec.critic.trains_trunk
        rng = np.random.default_rng(3)
        vocabulary = inner_model(policy).config.vocab_size
        tokens = [rng.integers(2, vocabulary, 3 + i % 4).astype(np.int32) for i in range(prompts)]
        choose_layout(scorer, [Example(prompt, (prompt,)) for prompt in tokens]).apply(scorer)
        (tmp_path / name).mkdir(exist_ok=True)
        collect = Collector(
            spec=spec, seed=0, scorer=scorer, reference=reference, sampler=sample, tokenizer=Words(), ends=(0,),
            rewards=RewardSources({"reward_test": (lambda answered: Said(reward(answered)), 1.0)}),
            log=SampleLog(tmp_path / name / ROLLOUTS),
            prompts=Prompts([[{"role": "user", "content": "?"}]] * prompts, tokens, [{}] * prompts),
        )  # fmt: skip
        objective = PolicyOptimization(spec, collect, torch.float32, reference)
        compute = Compute(device="cpu", **{"checkpoint_seconds": 1e9} | (job or {}))
        more = {"apart": apart(spec, lambda: 10**6), "held_out": HeldOutRewards(collect, collect.prompts) if held_out else None}
        made = Job(
            "align", scorer, objective, plan_of(spec, 0), spec, compute, tmp_path / name, Quiet(), rounds=objective, **more
        )
        return made, objective, reference

    return build


@pytest.fixture(scope="session")
def reward_pairs():
    """Builds pairs whose chosen side has a good word and whose rejected side a bad one; a quarter of them is held out."""

    def build(count: int = 48, seed: int = 0) -> pl.DataFrame:
        rng = np.random.default_rng(seed)

        def answer(*words: str) -> list[dict[str, str]]:
            said = [*rng.choice(["the", "hotel", "staff", "was", "a", "review"], rng.integers(2, 8)), rng.choice(words), "."]
            return [{"role": "assistant", "content": " ".join(said)}]

        columns = {
            "prompt": [[{"role": "user", "content": f"Write a review of hotel {i}."}] for i in range(count)],
            "chosen": [answer("clean", "kind", "lovely") for _ in range(count)],
            "rejected": [answer("dirty", "rude", "awful") for _ in range(count)],
            "split": ["holdout" if i % 4 == 3 else "train" for i in range(count)],
            "source": ["p.jsonl"] * count,
            "row": range(1, count + 1),
        }
        return pl.DataFrame(columns)

    return build


@pytest.fixture(scope="session")
def reward_stage(checkpoint, reward_pairs):
    """Runs the reward stage into a folder, on these pairs unless others are given; returns what it built."""

    def run(out: Path, policy: Path = checkpoint, progress: Progress | None = None, pairs: pl.DataFrame | None = None,
            seconds: float = 1e6, **section):  # fmt: skip
        document = {
            "name": "tiny", "model": {"source": "local", "path": str(policy)}, "data": {"preferences": "p"}, "reward": {},
            "compute": {"device": "cpu", "dtype": "float32", "log_every": 1, "checkpoint_seconds": seconds},
        }  # fmt: skip
        out.mkdir(exist_ok=True)
        request = StageRequest(
            stage="reward", train="given here", recipe=validate_recipe(document, "test"), policy=Policy(str(policy)),
            policy_digest="digest", rows=out / "rows", out=out, cache=out / "cache",
        )  # fmt: skip
        numbers = {"epochs": 4, "batch_size": 8, "max_length": 96, "learning_rate": 5e-3, "peft": {"method": "lora", "r": 4}}
        with reporting(progress or Quiet()):
            return reward(request, RewardTraining(**numbers | section), reward_pairs() if pairs is None else pairs)

    return run


@pytest.fixture(scope="session")
def trained_reward(reward_stage, tmp_path_factory):
    """Trains a reward model with a method, once a session for each `name`: the output `reward`."""
    done: dict[str, Path] = {}

    def folder(name: str, peft: dict, **changes) -> Path:
        if name not in done:
            out = tmp_path_factory.mktemp("reward")
            reward_stage(out, peft=peft, **{"epochs": 1} | changes)
            done[name] = out / "reward"
        return done[name]

    return folder


class StopAt(Quiet):
    """A person who presses Ctrl-C when a step is reported."""

    def __init__(self, step: int) -> None:
        self.step = step

    def advance(self, done, metrics):
        if done == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="session")
def stop_at():
    """Builds a progress that raises KeyboardInterrupt when a step is reported."""
    return StopAt
