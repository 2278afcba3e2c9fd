"""`python -m bench.peft.task FOLDER`: write what every method starts from: a small pretrained Llama and the task's conversations.

On a model with random weights a method that changes little of it could not lower the loss, and all would look alike.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from bench.workload import SHAPES
from posttrain.checkpoints.load import scratch_model
from posttrain.data.samples import write_sample
from posttrain.data.sources import resolve
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from posttrain.data.validate import validate
from posttrain.models.policy import Policy
from posttrain.training.pretrain import pretrain
from posttrain.training.request import StageRequest
from schemas.data import Checks
from schemas.load import validate_recipe
from schemas.model import ScratchModel
from schemas.recipe import Recipe

SHAPE, VOCABULARY = "small", 8192
TASK = "sample://instructions"
TOKENS = 120_000  # of pretraining
HOLDOUT, BATCH = 0.1, 8


def start(folder: Path, texts: Sequence[str]) -> None:
    """A new model with its tokenizer. The corpus has words for a part of the vocabulary; reserved tokens fill it up."""
    shape = SHAPES[SHAPE]
    spec = ScratchModel(
        source="scratch",
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        layers=shape["num_hidden_layers"],
        heads=shape["num_attention_heads"],
        kv_heads=shape["num_key_value_heads"],
        vocab_size=VOCABULARY,
    )
    tokenizer = prepare_tokenizer(train_tokenizer(texts, VOCABULARY))
    tokenizer.add_tokens([f"<|reserved_{i}|>" for i in range(VOCABULARY - len(tokenizer))])
    scratch_model(spec, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def recipe(model: Path) -> Recipe:
    """A short pretraining of the model in a folder."""
    document = {
        "name": "bench",
        "model": {"source": "local", "path": str(model)},
        "data": {"corpus": "sample://corpus", "instructions": TASK},
        "pretrain": {"tokens": TOKENS, "batch_tokens": 1024, "validations": 1},
        "compute": {"device": "cpu", "checkpoint_seconds": 1e9},
    }
    return validate_recipe(document, "bench")


def documents(folder: Path) -> pl.DataFrame:
    """The corpus without the noise that was planted in it; every document is trained on."""
    write_sample("corpus", folder / "corpus.jsonl")
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text("utf-8").splitlines()]
    return pl.DataFrame({"text": [row["text"] for row in rows if row["noise"] is None]}).with_columns(split=pl.lit("train"))


def main() -> None:
    """Write `model/`, `instructions.parquet` and `task.json`, what a reader must know of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    validate({"instructions": resolve(TASK, "data.instructions", folder)}, Checks(), HOLDOUT, folder)
    texts, initial = documents(folder), folder / "initial"
    start(initial, texts["text"].to_list())
    given = recipe(initial)
    assert given.pretrain
    request = StageRequest(
        stage="pretrain", train="posttrain.training.pretrain:pretrain", recipe=given, policy=Policy(str(initial)),
        policy_digest="", rows=folder / "corpus.jsonl", out=folder, cache=folder,
    )  # fmt: skip
    built = pretrain(request, given.pretrain, texts)
    parameters = int(built.metrics["parameters"])
    shared = {"shape": SHAPE, "vocabulary": VOCABULARY, "parameters": parameters, "task": TASK, "batch": BATCH}
    (folder / "task.json").write_text(json.dumps(shared))


if __name__ == "__main__":
    main()
