"""The registered reward model's code (MLflow "models from code"): answered conversations in, rewards out.

Needs mlflow, torch and transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from mlflow.exceptions import MlflowException
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
        """One reward per conversation, centred as in training.

        Raises:
            MlflowException: in one sentence, when the input cannot be worked with. A server answers 400 then.
        """
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
    """Every accepted input as a list of conversations that end with the answer.

    Raises:
        MlflowException: when it is none of the forms.
    """
    if hasattr(model_input, "columns"):
        names = ["messages"] if "messages" in model_input.columns else ["prompt", "response"]
        if missing := [name for name in names if name not in model_input.columns]:
            raise refused(f"the input has the columns {', '.join(map(str, model_input.columns))}", missing)
        rows = model_input[names].values.tolist()
        items = [row[0] if len(row) == 1 else tuple(row) for row in rows]
    else:
        items = model_input.tolist() if hasattr(model_input, "tolist") else model_input
        items = [items] if _is_one(items) else items
    if not isinstance(items, list | tuple):
        raise refused(f"the input is of type {type(items).__name__}")
    return [_conversation(item, f"conversation {place}") for place, item in enumerate(items)]


def refused(found: str, missing: list[str] | None = None) -> MlflowException:
    """An error of the request: status 400, without a stack trace."""
    lacking = f" ({', '.join(missing)} missing)" if missing else ""
    allowed = "messages that end with the assistant's answer, or a pair (prompt, response), or a list of either"
    return MlflowException.invalid_parameter_value(f"{found}{lacking}: allowed are {allowed}")


def _is_one(item: Any) -> bool:
    """Whether this is a conversation or a pair, rather than a list of such."""
    if isinstance(item, dict):
        return True
    if not isinstance(item, list | tuple) or not item:
        return False
    return (isinstance(item[0], dict) and "role" in item[0]) or _is_pair(item)


def _is_pair(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[1], str)


def _conversation(item: Any, where: str) -> list[dict[str, str]]:
    if isinstance(item, dict):
        if not {"messages"} <= set(item) and not {"prompt", "response"} <= set(item):
            raise refused(f"{where} has {', '.join(map(str, item)) or 'nothing'}")
        item = item["messages"] if "messages" in item else (item["prompt"], item["response"])
    if _is_pair(item):
        prompt, response = item
        before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        item = [*before, {"role": "assistant", "content": response}] if isinstance(before, list | tuple) else before
    if not isinstance(item, list | tuple) or len(item) < 2 or not all(map(_is_message, item)):
        raise refused(f"{where} is not a question with an answer, or a message has no role or no text")
    if item[-1]["role"] != "assistant":
        raise refused(f"{where} ends with a message of {item[-1]['role']}")
    return list(item)


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(part), str) for part in ("role", "content"))


set_model(ScoringModel())
