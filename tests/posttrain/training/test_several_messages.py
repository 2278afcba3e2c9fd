"""SFT and then DPO on answers of several messages: what the stages report is what the assistant's tokens alone give.

The expected losses come from the saved weights, a plain forward pass of transformers and a mask that is made of the text.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.models.policy import Policy
from posttrain.training.request import StageRequest, carry_out
from tests.posttrain.training.conftest import WORDS

Message = dict[str, str]
TALK = ("user", "assistant", "user", "assistant")
BETA = 0.3
ROWS, HELD = 14, 4


def talks(roles: tuple[str, ...], seed: int, words: list[str] = WORDS) -> list[list[Message]]:
    """Conversations of random words."""
    rng = np.random.default_rng(seed)
    return [[{"role": role, "content": " ".join(rng.choice(words, rng.integers(2, 9)))} for role in roles] for _ in range(ROWS)]


def table(**columns: list[list[Message]]) -> pl.DataFrame:
    split = ["train"] * (ROWS - HELD) + ["holdout"] * HELD
    return pl.DataFrame({**columns, "split": split, "source": ["rows.jsonl"] * ROWS, "row": range(1, ROWS + 1)})


def logprobs(folder: Path, before: list[Message], messages: list[Message], others: bool = False) -> torch.Tensor:
    """Of each token of what the assistant says behind `before`; `others`: and of all that stands between its turns."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text, spans = "", []
    for at, message in enumerate([*before, *messages]):
        text += f"{message['role'].capitalize()}:\n"
        if at >= len(before) and (message["role"] == "assistant" or others):
            spans.append((len(text), len(text) + len(message["content"]) + len(tokenizer.eos_token)))
        text += message["content"] + tokenizer.eos_token * (message["role"] == "assistant") + "\n\n"
    found = tokenizer(text.removesuffix("\n\n"), add_special_tokens=False, return_offsets_mapping=True)
    ids = torch.tensor(found["input_ids"])
    with torch.no_grad():
        scores = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    return scores[[any(first <= start < last for first, last in spans) for start, _ in found["offset_mapping"][1:]]]


@pytest.fixture(scope="module")
def after_sft(request_of, tmp_path_factory) -> tuple[StageRequest, float, pl.DataFrame]:
    """The stage sft on conversations of two answers, its validation loss and its rows."""
    made, given = request_of("sft", tmp_path_factory.mktemp("sft"), {"batch_size": 4, "learning_rate": 0.01}), talks(TALK, 1)
    rows = table(prompt=[talk[:-1] for talk in given], completion=[talk[-1:] for talk in given])
    rows.write_parquet(made.out / "rows.parquet")
    request = made.model_copy(update={"rows": made.out / "rows.parquet"})
    return request, carry_out(request).metrics["validation_loss"], rows


def test_sft_is_the_cross_entropy_of_both_answers(after_sft):
    request, loss, rows = after_sft
    held = rows.filter(split="holdout").select("prompt", "completion").rows()
    both = torch.cat([logprobs(request.out / "model", [], [*prompt, *completion]) for prompt, completion in held])
    assert loss == pytest.approx(-both.mean().item(), rel=1e-4)
    last = torch.cat([logprobs(request.out / "model", prompt, completion) for prompt, completion in held])
    assert loss != pytest.approx(-last.mean().item(), rel=1e-3)


def test_dpo_compares_what_the_assistant_says_alone(after_sft, request_of, tmp_path):
    """One side goes on for three messages, and the other for one or for three, against the policy of the stage before."""
    start = after_sft[0].out / "model"
    # Of other words, so that there is something to learn: of the weights those with the lowest validation loss are kept.
    prompts, good, bad = talks(TALK[:1], 2), talks(TALK[1:], 3, WORDS[:6]), talks(TALK[1:], 4, WORDS[6:])
    rows = table(prompt=prompts, chosen=good, rejected=[talk[: 1 + 2 * (at % 2)] for at, talk in enumerate(bad)])
    section = {"epochs": 3, "batch_size": 5, "beta": BETA, "learning_rate": 0.01, "peft": {"method": "full"}}
    made = request_of("align", tmp_path / "dpo", section)
    rows.write_parquet(made.out / "rows.parquet")
    update = {"rows": made.out / "rows.parquet", "policy": Policy(str(start)), "policy_digest": "after sft"}
    loss = carry_out(made.model_copy(update=update)).metrics["validation_loss"]

    def expected(others: bool) -> float:
        def gain(prompt: list[Message], side: list[Message]) -> torch.Tensor:
            new, old = (logprobs(folder, prompt, side, others).sum() for folder in (made.out / "model", start))
            return new - old

        held = rows.filter(split="holdout").select("prompt", "chosen", "rejected").rows()
        margins = torch.stack([gain(prompt, chosen) - gain(prompt, rejected) for prompt, chosen, rejected in held])
        return -torch.nn.functional.logsigmoid(BETA * margins).mean().item()

    assert loss == pytest.approx(expected(others=False), rel=1e-3)
    assert loss < 0.6
    assert loss != pytest.approx(expected(others=True), rel=1e-2)
