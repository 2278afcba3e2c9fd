"""TRL's side of `ppo`, run by the interpreter of its own environment (`make peers`): the last TRL that has PPO."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, inject_adapter_in_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer

from bench.sides import Measured, arguments, clocks, peak_gb
from bench.workload import BETAS, EPOCHS, LORA, MINIBATCHES, NEW_TOKENS, PPO_NUMBERS, Workload, start_adapter, token_ids


class Clock(TrainerCallback):
    """Wall and processor seconds of each iteration from the end of the one before, and what TRL logged of it."""

    def __init__(self) -> None:
        self.at: list[tuple[float, float]] = []
        self.logs: list[dict[str, float]] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The first iteration begins."""
        self.at.append(clocks())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step of this trainer is an iteration."""
        self.at.append(clocks())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """One record per iteration."""
        self.logs.append(dict(logs))

    def seconds(self, clock: int) -> list[float]:
        """Of each iteration; clock 0 is the wall's, 1 the processor's."""
        return [after[clock] - before[clock] for before, after in zip(self.at, self.at[1:], strict=False)]


def config_of(workload: Workload, setting: str, out: Path) -> PPOConfig:
    """All but what is named here stands at TRL's own defaults."""
    return PPOConfig(
        per_device_train_batch_size=workload.batch,  # responses of an iteration; minibatches are cut from them
        num_mini_batches=MINIBATCHES,
        num_ppo_epochs=EPOCHS,
        total_episodes=workload.steps * workload.batch,
        response_length=NEW_TOKENS,
        stop_token=None,  # every response has all its tokens
        temperature=PPO_NUMBERS["temperature"],
        kl_coef=PPO_NUMBERS["kl"],
        cliprange=PPO_NUMBERS["clip"],
        cliprange_value=PPO_NUMBERS["value_clip"],
        vf_coef=PPO_NUMBERS["value_coefficient"],
        gamma=PPO_NUMBERS["gamma"],
        lam=PPO_NUMBERS["lam"],
        learning_rate=workload.learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        num_sample_generations=0,
        use_cpu=True,
        bf16=False,
        output_dir=str(out),
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        **_best(setting),
    )


def _best(setting: str) -> dict[str, Any]:
    """Scoring in parts: the logits of 64 whole sequences, most of them of prompts, are what TRL's memory goes into."""
    return {"local_rollout_forward_batch_size": 16} if setting == "best" else {}


def value_model_of(folder: Path, setting: str) -> Any:
    """As its documentation has it, a whole model that is trained; the best setting trains a LoRA and the score head of it."""
    model = AutoModelForSequenceClassification.from_pretrained(folder / "reward", dtype=torch.float32)
    if setting == "best":
        inject_adapter_in_model(_lora(), model)
        model.score.requires_grad_(True)
        start_adapter(model)
    return model


def _lora() -> LoraConfig:
    modules = list(LORA["target_modules"])
    return LoraConfig(r=LORA["r"], lora_alpha=LORA["alpha"], lora_dropout=0.0, target_modules=modules)


def trainer_of(workload: Workload, folder: Path, setting: str, out: Path, clock: Clock) -> PPOTrainer:
    """TRL's trainer on the initial policy, the reward model and the prompts of the workload."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    trainer = PPOTrainer(
        args=config_of(workload, setting, out),
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        ref_model=None,  # the policy without its adapter
        reward_model=AutoModelForSequenceClassification.from_pretrained(folder / "reward", dtype=torch.float32),
        value_model=value_model_of(folder, setting),
        train_dataset=Dataset.from_list([{"input_ids": token_ids(row["prompt"])} for row in workload.rows()]),
        peft_config=_lora(),
        callbacks=[clock],
    )
    start_adapter(trainer.policy_model)
    return trainer


def main() -> None:
    """Measure and write the result where the parent process looks for it."""
    given = arguments()
    workload, clock = Workload.read(given.folder), Clock()
    trainer = trainer_of(workload, given.folder, given.setting, given.result.with_suffix(".run"), clock)
    before_training = peak_gb()
    trainer.train()
    trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    weight = PPO_NUMBERS["value_coefficient"]
    logs = [log for log in clock.logs if "loss/policy_avg" in log]
    Measured(
        losses=[log["loss/policy_avg"] + weight * log["loss/value_avg"] for log in logs],
        seconds=clock.seconds(0),
        cpu_seconds=clock.seconds(1),
        reference_seconds=0.0,
        reference_cpu_seconds=0.0,
        peak_gb=peak_gb(),
        before_training_gb=before_training,
        gpu_gb=None,
        note=f"TRL {given.setting}: {trained:,} parameters trained",
        facts={
            "entropy": mean(log["policy/entropy_avg"] for log in logs),
            "score": mean(log["objective/scores"] for log in logs),
            "ratio": mean(log["val/ratio"] for log in logs),
        },
    ).write(given.result)


if __name__ == "__main__":
    main()
