"""The registered model's code (MLflow "models from code"): chat messages in, text out. It needs what `registry.py` requires."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer


class ChatModel(PythonModel):
    """`predict` takes one conversation, a list of them, plain prompts, or a DataFrame with a `messages` or `prompt` column."""

    def load_context(self, context: Any) -> None:
        """Load the merged checkpoint that was registered, or the base with the adapters that are not merged into it."""
        folders = context.artifacts
        merged = "checkpoint" in folders
        folder = folders["checkpoint" if merged else "base"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.answers_apart = AutoConfig.from_pretrained(folder).is_encoder_decoder  # its output does not repeat the question
        model_class = AutoModelForSeq2SeqLM if self.answers_apart else AutoModelForCausalLM
        self.model: Any = model_class.from_pretrained(folder)
        self.ends = self.model.generation_config.eos_token_id  # EOS, and what ends a turn in the chat template
        for name in sorted(name for name in folders if name.startswith("adapter") and not merged):
            self.model = with_adapter(self.model, Path(folders[name]))
        self.model.eval()

    # Without annotations: MLflow turns them into a schema, and an input of several forms has none.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """One answer per conversation; greedy unless `temperature` is above 0."""
        params = {"max_new_tokens": 128, "temperature": 0.0, "seed": 0, **(params or {})}
        torch.manual_seed(params["seed"])
        sampling = (
            {"do_sample": True, "temperature": params["temperature"], "top_k": 0}
            if params["temperature"] > 0
            else {"do_sample": False}
        )
        return [self._answer(messages, params["max_new_tokens"], sampling) for messages in conversations(model_input)]

    @torch.no_grad()
    def _answer(self, messages: list[dict[str, str]], max_new_tokens: int, sampling: dict[str, Any]) -> str:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=False)["input_ids"] + self._after()])
        out = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.ends,
            **sampling,
        )
        return str(self.tokenizer.decode(out[0, 0 if self.answers_apart else ids.shape[1] :], skip_special_tokens=True))

    def _after(self) -> list[int]:
        """What ends the text of an encoder: EOS, where the tokenizer writes one after every text, as T5's does."""
        last = self.tokenizer("a")["input_ids"][-1:]
        return last if self.answers_apart and last == [self.tokenizer.eos_token_id] else []


def with_adapter(model: Any, folder: Path) -> Any:
    """The model with an adapter in it: by peft, or by the loader that lies in the folder of what peft does not have."""
    if not (folder / "adapter_config.json").exists():
        return runpy.run_path(str(folder / "delta.py"))["load_delta"](model, folder)
    adapted = PeftModel.from_pretrained(model, str(folder))
    return adapted if adapted.active_peft_config.is_prompt_learning else adapted.get_base_model()


def conversations(model_input: Any) -> list[list[dict[str, str]]]:
    """Every accepted input as a list of conversations."""
    if hasattr(model_input, "columns"):
        column = next((name for name in ("messages", "prompt") if name in model_input.columns), model_input.columns[0])
        model_input = model_input[column].tolist()
    if hasattr(model_input, "tolist"):
        model_input = model_input.tolist()
    if isinstance(model_input, str | dict):
        model_input = [model_input]
    if model_input and isinstance(model_input[0], dict) and "role" in model_input[0]:
        model_input = [model_input]
    return [_conversation(item) for item in model_input]


def _conversation(item: Any) -> list[dict[str, str]]:
    if isinstance(item, str):
        return [{"role": "user", "content": item}]
    return list(item["messages"] if isinstance(item, dict) else item)


set_model(ChatModel())
