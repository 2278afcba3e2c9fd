"""The registered reward model's code (MLflow "models from code"): answered conversations in, rewards out.

Needs mlflow, torch and transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class ScoringModel(PythonModel):
    """`predict` takes one conversation that ends with the assistant's answer, a list of them, a pair (prompt, response) or a list
    of pairs, or a DataFrame with a column `messages`, or `prompt` and `response`."""

    def load_context(self, context: Any) -> None:
        """Load the checkpoint that was registered."""
        folder = context.artifacts["checkpoint"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder, truncation_side="left")
        self.model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        self.reads_pairs = json.loads((Path(folder) / "reward_model.json").read_text())["pairs"]

    # Without annotations: MLflow turns them into a schema, and an input of several forms has none.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """One reward per conversation, centred as in training."""
        return [self._reward(messages[:-1], str(messages[-1]["content"])) for messages in answered(model_input)]

    @torch.no_grad()
    def _reward(self, prompt: list[dict[str, str]], response: str) -> float:
        inputs = self._pair(prompt, response) if self.reads_pairs else {"input_ids": self._chat(prompt, response)}
        logit = self.model(**inputs).logits[0, 0]
        return float(logit) - float(self.model.config.reward_mean)

    def _pair(self, prompt: list[dict[str, str]], response: str) -> dict[str, Any]:
        """An encoder reads two texts; the first is cut from the left."""
        text = prompt[0]["content"] if len(prompt) == 1 else "\n\n".join(
            f"{message['role'].capitalize()}:\n{message['content']}" for message in prompt
        )  # fmt: skip
        longest = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)
        return dict(self.tokenizer(text, response, truncation="only_first", max_length=longest, return_tensors="pt"))

    def _chat(self, prompt: list[dict[str, str]], response: str) -> torch.Tensor:
        """A decoder reads the chat up to the EOS token that ends the answer; a template may write blanks after it."""
        said = [*prompt, {"role": "assistant", "content": response}]
        text = self.tokenizer.apply_chat_template(said, tokenize=False)
        ids, eos = self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id
        end = len(ids) - ids[::-1].index(eos) if eos in ids else 0
        ended = end and not str(self.tokenizer.decode(ids[end:])).strip()
        return torch.tensor([ids[:end] if ended else [*ids, eos]])


def answered(model_input: Any) -> list[list[dict[str, str]]]:
    """Every accepted input as a list of conversations that end with the answer."""
    if hasattr(model_input, "columns"):
        names = ["messages"] if "messages" in model_input.columns else ["prompt", "response"]
        rows = model_input[names].values.tolist()
        return [_conversation(row[0] if len(row) == 1 else tuple(row)) for row in rows]
    if hasattr(model_input, "tolist"):
        model_input = model_input.tolist()
    return [_conversation(item) for item in ([model_input] if _is_one(model_input) else model_input)]


def _is_one(item: Any) -> bool:
    """Whether this is a conversation or a pair, rather than a list of such."""
    if isinstance(item, dict):
        return True
    return len(item) > 0 and ((isinstance(item[0], dict) and "role" in item[0]) or _is_pair(item))


def _is_pair(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[1], str)


def _conversation(item: Any) -> list[dict[str, str]]:
    if isinstance(item, dict):
        item = item["messages"] if "messages" in item else (item["prompt"], item["response"])
    if not _is_pair(item):
        return list(item)
    prompt, response = item
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return [*before, {"role": "assistant", "content": response}]


set_model(ScoringModel())
