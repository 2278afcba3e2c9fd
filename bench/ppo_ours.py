"""Our side of `ppo`: the pieces that the align stage puts together, from the model's folder to the training curve."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bench.ours import ProcessorTime
from bench.sides import Measured, arguments, peak_gb
from bench.workload import BETAS, EPOCHS, LORA, MINIBATCHES, NEW_TOKENS, PPO_NUMBERS, Workload, start_adapter, token_ids
from posttrain.checkpoints.load import load_model
from posttrain.data.end_tokens import end_tokens
from posttrain.models.parameters import trainable_count
from posttrain.models.policy import Policy
from posttrain.models.weight_sharing import shared_copy
from posttrain.peft.wrap import wrap
from posttrain.rewards.model import RewardModel
from posttrain.rewards.scorer import SCORE, RewardScorer, with_score
from posttrain.rewards.sources import load_rewards
from posttrain.sampling.sampler import sample
from posttrain.scoring.scorer import inner_model
from posttrain.training.loop import CURVE, Job, train
from posttrain.training.ppo.actor_critic import ActorCritic, start_policy
from posttrain.training.ppo.critic import apart, new_critic
from posttrain.training.ppo.objective import PolicyOptimization, plan_of
from posttrain.training.ppo.rollout import Collector, Prompts
from posttrain.training.ppo.rollout_log import ROLLOUTS, SampleLog
from posttrain.training.ppo.stage import use_layout_for
from schemas.peft import LoRA
from schemas.ppo import KL, PPO, StageReward
from schemas.recipe import Compute

CPU = torch.device("cpu")


def spec_of(workload: Workload, value_model: str) -> PPO:
    """The section of a recipe that asks for this workload."""
    numbers = {name: value for name, value in PPO_NUMBERS.items() if name != "kl"}
    return PPO(
        algorithm="ppo",
        reward=(StageReward(source="model"),),
        iterations=workload.steps,
        rollouts=workload.batch,
        epochs=EPOCHS,
        minibatches=MINIBATCHES,
        max_new_tokens=NEW_TOKENS,
        kl=KL(coefficient=PPO_NUMBERS["kl"]),
        value_model=value_model,  # type: ignore[arg-type]
        learning_rate=workload.learning_rate,
        schedule="constant",
        warmup_share=0.0,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        peft=LoRA(method="lora", **LORA),
        **numbers,
    )


def reward_model_of(base: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path) -> RewardModel:
    """An adapter on the policy's weights, as the reward stage trains one, with the score head that the peer's model has."""
    model = with_score(shared_copy(base), LoRA(method="lora", **LORA), 0, "bench")
    start_adapter(model)
    inner_model(model).get_submodule(SCORE).weight.data.copy_(load_file(folder / "reward" / "model.safetensors")["score.weight"])
    return RewardModel(RewardScorer(model.requires_grad_(False), CPU), tokenizer, mean=0.0, of_policy=True)


def prompts_of(workload: Workload) -> Prompts:
    """The prompts of all iterations, in the peer's tokens: without a chat template."""
    texts = [row["prompt"] for row in workload.rows()]
    tokens = [np.asarray(token_ids(text), np.int32) for text in texts]
    return Prompts([[{"role": "user", "content": text}] for text in texts], tokens, [{} for _ in texts])


def job_of(workload: Workload, folder: Path, value_model: str, out: Path) -> tuple[Job, str]:
    """What the align stage would train, and its layout."""
    spec, tokenizer = spec_of(workload, value_model), AutoTokenizer.from_pretrained(folder / "model")
    base = load_model(Policy(str(folder / "model")), CPU)
    reward_model = reward_model_of(base, tokenizer, folder)
    critic = new_critic(base, spec, seed=0)
    policy = wrap(base, spec.peft, 0, "bench", tokenizer)
    start_adapter(policy)
    reference = start_policy(policy, spec, critic)
    scorer = ActorCritic(policy, CPU, torch.float32, temperature=spec.temperature).eval()
    prompts = prompts_of(workload)
    layout = use_layout_for(scorer, prompts.tokens)
    collect = Collector(
        spec=spec, seed=0, scorer=scorer, reference=reference, sampler=sample, tokenizer=tokenizer, prompts=prompts,
        rewards=load_rewards(spec, {"model": reward_model}), log=SampleLog(out / ROLLOUTS),
        ends=tuple(end_tokens(tokenizer)),
    )  # fmt: skip
    objective = PolicyOptimization(spec, collect, torch.float32)
    compute = Compute(device="cpu", checkpoint_seconds=1e9)
    progress = ProcessorTime(objective.steps)
    return Job("align", scorer, objective, plan_of(spec, 0), spec, compute, out, progress, rounds=objective,
               apart=apart(spec, lambda: trainable_count(policy))), layout  # fmt: skip


def measure(workload: Workload, folder: Path, value_model: str, out: Path) -> Measured:
    """Train all iterations; `out` is an empty folder for the curve."""
    job, layout = job_of(workload, folder, value_model, out)
    trained = trainable_count(job.scorer.model)
    before_training = peak_gb()
    train(job)
    curve = [json.loads(line) for line in (out / CURVE).read_text().splitlines()]
    assert isinstance(job.progress, ProcessorTime)
    return Measured(
        losses=[point["loss"] for point in curve],
        seconds=[after - before for before, after in itertools.pairwise([0.0, *(point["seconds"] for point in curve)])],
        cpu_seconds=[after - before for before, after in itertools.pairwise(job.progress.at)],
        reference_seconds=0.0,
        reference_cpu_seconds=0.0,
        peak_gb=peak_gb(),
        before_training_gb=before_training,
        gpu_gb=None,
        note=f"values from {value_model}: {trained:,} parameters trained; {layout}",
        facts={name: mean(point[name] for point in curve) for name in ("entropy", "score", "response_tokens")},
    )


def main() -> None:
    """Measure and write the result where the parent process looks for it."""
    given = arguments()
    out = given.result.with_suffix(".run")
    out.mkdir()
    measure(Workload.read(given.folder), given.folder, given.setting, out).write(given.result)


if __name__ == "__main__":
    main()
