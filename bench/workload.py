"""The fixed training workload: rows, a word-level tokenizer of any size, a Llama of a given shape, written to a folder once.

Both sides load the same files: `model/` and, for SFT and DPO, the rows as token ids. `real.py` writes them for a model of the
user's. Only torch, transformers and tokenizers are imported, which the peer's environment has too.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WORDS = 1000  # the rows use the first words of the vocabulary
SPECIAL = ("<pad>", "<eos>", "<unk>")
SMALLEST_VOCABULARY = WORDS + len(SPECIAL)
BATCH = {"dpo": 4, "sft": 8, "ppo": 64}  # pairs, rows, prompts of an iteration
MAX_LENGTH = 1024
BETA = 0.1
NEW_TOKENS, EPOCHS, MINIBATCHES = 48, 4, 4  # of a PPO iteration: tokens per response, passes over them, steps per pass
PPO_NUMBERS = {
    "temperature": 0.7,
    "kl": 0.05,
    "clip": 0.2,
    "value_clip": 0.2,
    "value_coefficient": 0.1,
    "gamma": 1.0,
    "lam": 0.95,
}
BETAS = (0.9, 0.95)  # of AdamW
DEVICES = ("cpu", "cuda")
LORA: dict[str, Any] = {"r": 8, "alpha": 8, "target_modules": ("q_proj", "v_proj")}
REAL_LORA: dict[str, Any] = {"r": 16, "alpha": 32, "target_modules": "all-linear"}  # what a recipe gets that sets nothing
ROWS = "rows.jsonl"
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2},
    "small": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8,
              "num_key_value_heads": 2},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8},
}  # fmt: skip
"""`small` is the shape of the published figures, `1b` that of Llama 3.2 1B; `tiny` is for tests."""

TokenRow = dict[str, list[int]]
"""Token ids of `prompt`, `chosen` and `rejected`."""

LENGTHS = {"tiny": ((10, 30), (2, 20))}
"""Least and most words of a prompt and of a response. `tiny` has few: sums of fewer log-probabilities round less in fp32."""
USUAL_LENGTHS = ((100, 300), (20, 200))


@dataclass(frozen=True)
class Workload:
    """One benchmark of one objective; the same on both sides."""

    kind: str
    """`sft`, `dpo` or `ppo`."""
    vocabulary: int
    """Tokens of the vocabulary."""
    full: bool
    """Train every weight, the tied head included; otherwise LoRA on the query and value projections."""
    steps: int
    """Optimizer steps in each process; of PPO, iterations."""
    shape: str
    """A name of `SHAPES`."""
    device: str
    """`cpu` or `cuda`."""
    learning_rate: float
    """Constant learning rate."""
    passes: int = 1
    """How often the rows are repeated; 1 means that every step has rows of its own."""
    dtype: str = "float32"
    """Arithmetic of both sides, `float32` or `bfloat16` (autocast, with fp32 weights where they train)."""
    model: str | None = None
    """Folder of a real model with its tokenizer, in the place of `shape` and `vocabulary`."""
    pairs: str | None = None
    """File of its pairs; None: they are generated."""

    @property
    def batch(self) -> int:
        """Rows per optimizer step."""
        return BATCH[self.kind]

    @property
    def distinct(self) -> int:
        """Rows that differ; each is trained on in every pass."""
        return self.steps // self.passes * self.batch

    @property
    def lora(self) -> dict[str, Any]:
        """The adapter that trains where not every weight does."""
        return REAL_LORA if self.model else LORA

    def rows(self) -> list[dict[str, str]]:
        """As many rows as the steps need, in training order."""
        return rows(self.distinct, *LENGTHS.get(self.shape, USUAL_LENGTHS)) * self.passes

    def write(self, folder: Path) -> None:
        """This workload as JSON beside its model."""
        (folder / "workload.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Workload:
        """What `write` wrote."""
        return cls(**json.loads((folder / "workload.json").read_text()))


def rows(count: int, prompt: tuple[int, int], response: tuple[int, int], seed: int = 0) -> list[dict[str, str]]:
    """Preference pairs of random words; `prompt` and `response` give the least and most words."""
    random_state = random.Random(seed)

    def words(length: tuple[int, int]) -> str:
        return " ".join(f"w{random_state.randrange(WORDS)}" for _ in range(random_state.randint(*length)))

    return [{"prompt": words(prompt), "chosen": " " + words(response), "rejected": " " + words(response)} for _ in range(count)]


def write_token_rows(token_rows: Iterable[TokenRow], folder: Path) -> None:
    """One line of JSON for each row, for `read_token_rows`."""
    (folder / ROWS).write_text("".join(json.dumps(row) + "\n" for row in token_rows))


def read_token_rows(folder: Path) -> list[TokenRow]:
    """The rows in training order; a response ends with the token that ends it."""
    return [json.loads(line) for line in (folder / ROWS).read_text().splitlines()]


def token_row(row: Mapping[str, str], vocabulary: int) -> TokenRow:
    """The token ids of a row of `rows`."""
    end = {"prompt": [], "chosen": [eos_id(vocabulary)], "rejected": [eos_id(vocabulary)]}
    return {name: token_ids(text) + end[name] for name, text in row.items()}


def token_ids(text: str) -> list[int]:
    """What the tokenizer makes of a text of `rows`."""
    return [int(word.removeprefix("w")) for word in text.split()]


def eos_id(vocabulary: int) -> int:
    """Token that ends a response."""
    return vocabulary - len(SPECIAL) + SPECIAL.index("<eos>")


def make_tokenizer(vocabulary: int) -> Any:
    """A word is a token: `w0`, `w1`, …, then padding, end and unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*(f"w{i}" for i in range(vocabulary - len(SPECIAL))), *SPECIAL]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def make_model(vocabulary: int, shape: str) -> Any:
    """A random Llama with grouped queries and tied embeddings; the seed fixes every weight."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_id(vocabulary),
        pad_token_id=vocabulary - len(SPECIAL),
        **SHAPES[shape],
    )
    return LlamaForCausalLM(config)


def make_reward_model(policy: Path) -> Any:
    """The policy's transformer with a random score head in the place of its output head."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    return AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1, dtype=torch.float32)


def start_adapter(model: Any) -> None:
    """The same first LoRA matrices on every side, whatever random numbers were drawn before (A uniform, B zero)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_A" in name:
            bound = 1 / math.sqrt(parameter.shape[1])
            drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            parameter.data.copy_(drawn)
        elif "lora_B" in name:
            parameter.data.zero_()


def main() -> None:
    """Write model, tokenizer and rows of the workload in a folder beside it; for PPO a reward model in the place of rows."""
    parser = argparse.ArgumentParser(description="Write the initial model, the tokenizer and the rows that every side loads.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    workload = Workload.read(folder)
    make_model(workload.vocabulary, workload.shape).save_pretrained(folder / "model")
    make_tokenizer(workload.vocabulary).save_pretrained(folder / "model")
    if workload.kind == "ppo":
        make_reward_model(folder / "model").save_pretrained(folder / "reward")
    else:
        write_token_rows((token_row(row, workload.vocabulary) for row in workload.rows()), folder)


if __name__ == "__main__":
    main()
