"""TRL's side of `sft` and `dpo`, run by the interpreter of its own environment (`make peers`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from bench.sides import Measured, arguments, clocks, peak_gb
from bench.workload import BETA, BETAS, MAX_LENGTH, Workload, read_token_rows, start_adapter


class Clock(TrainerCallback):
    """Wall and processor seconds of each step, and its unrounded loss."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.losses: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """The batch is collated before, which is not counted."""
        self.began = _now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After the optimizer."""
        wall, cpu = _now()
        self.seconds.append(wall - self.began[0])
        self.cpu_seconds.append(cpu - self.began[1])

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """One record per step, and a last one without a loss."""
        self.losses += [logs["loss"]] if "loss" in logs else []


class TimedDPOTrainer(DPOTrainer):
    """Takes rows that are tokens already, and adds up the time of the reference pass before training."""

    reference = (0.0, 0.0)

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        """TRL's own would render and tokenise; SFTTrainer leaves it out where it finds `input_ids`."""
        return dataset

    def compute_ref_log_probs(self, *args: Any, **kwargs: Any) -> Any:
        """Called for each batch where the reference is computed beforehand."""
        began = _now()
        scores = super().compute_ref_log_probs(*args, **kwargs)
        self.reference = tuple(total + end - start for total, start, end in zip(self.reference, began, _now(), strict=True))
        return scores


def _now() -> tuple[float, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clocks()


def settings(workload: Workload, setting: str, out: Path) -> dict[str, Any]:
    """Arguments of the trainer's config. All but what is named here stands at TRL's own defaults."""
    equal = {
        "per_device_train_batch_size": workload.batch,
        "max_steps": workload.steps,
        "learning_rate": workload.learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "train_sampling_strategy": "sequential",
        "max_length": MAX_LENGTH,
        "use_cpu": workload.device == "cpu",
        "bf16": workload.dtype == "bfloat16",
    }
    silent = {"output_dir": str(out), "logging_steps": 1, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
    return {
        **equal,
        **({"beta": BETA} if workload.kind == "dpo" else {"completion_only_loss": True}),
        **silent,
        **(_best(workload) if setting == "best" else {}),
    }


def _best(workload: Workload) -> dict[str, Any]:
    """The fastest and leanest settings of TRL 1.16 with an equal loss that were found: bench/NOTES.md says how."""
    best: dict[str, Any] = {"gradient_checkpointing": False}
    if workload.device == "cpu":
        # One row (or pair) at a time with accumulation: no padding between rows, on which TRL would run the whole model and, on
        # a CPU, the output head too; and activations of one row. The update is the same.
        best |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": workload.batch}
    return best | ({"precompute_ref_log_probs": True} if workload.kind == "dpo" else {})


def weights_of(workload: Workload, setting: str) -> torch.dtype:
    """What the model is loaded in. Frozen weights in bf16 spare a CPU the rounding in each product; LoRA's own stay in fp32."""
    rounded = setting == "best" and workload.device == "cpu" and workload.dtype == "bfloat16" and not workload.full
    return torch.bfloat16 if rounded else torch.float32


def rows_of(workload: Workload, folder: Path) -> list[dict[str, list[int]]]:
    """The rows in the columns that TRL's tokenisation would make."""
    rows = read_token_rows(folder)
    if workload.kind == "dpo":
        return [{f"{name}_ids": ids for name, ids in row.items()} for row in rows]
    return [
        {
            "input_ids": row["prompt"] + row["chosen"],
            "completion_mask": [0] * len(row["prompt"]) + [1] * len(row["chosen"]),
        }
        for row in rows
    ]


def trainer_of(workload: Workload, folder: Path, setting: str, out: Path, clock: Clock) -> Any:
    """TRL's trainer on the initial policy and the rows of the workload."""
    config, trainer = {"dpo": (DPOConfig, TimedDPOTrainer), "sft": (SFTConfig, SFTTrainer)}[workload.kind]
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=workload.lora["r"],
        lora_alpha=workload.lora["alpha"],
        lora_dropout=0.0,
        target_modules=workload.lora["target_modules"],
    )
    made = trainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=weights_of(workload, setting)),
        args=config(**settings(workload, setting, out)),
        train_dataset=Dataset.from_list(rows_of(workload, folder)),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        peft_config=None if workload.full else lora,
        callbacks=[clock],
    )
    start_adapter(made.model)  # B is zero before and after, so a reference that was computed already stands
    return made


def main() -> None:
    """Measure and write the result where the parent process looks for it."""
    given = arguments()
    workload, clock = Workload.read(given.folder), Clock()
    trainer = trainer_of(workload, given.folder, given.setting, given.result.with_suffix(".run"), clock)
    before_training = peak_gb()
    trainer.train()
    reference = getattr(trainer, "reference", (0.0, 0.0))
    Measured(
        losses=clock.losses,
        seconds=clock.seconds,
        cpu_seconds=clock.cpu_seconds,
        reference_seconds=reference[0],
        reference_cpu_seconds=reference[1],
        peak_gb=peak_gb(),
        before_training_gb=before_training,
        gpu_gb=torch.cuda.max_memory_allocated() / 1e9 if workload.device == "cuda" else None,
        note=f"TRL {given.setting}: {_best(workload) if given.setting == 'best' else 'its own defaults'}, "
        f"weights in {weights_of(workload, given.setting)}",
    ).write(given.result)


if __name__ == "__main__":
    main()
