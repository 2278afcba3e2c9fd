"""The registered model's code (MLflow "models from code"): chat messages in, text out. It needs what `registry.py` requires.

One file, since it is copied into the registered version and runs where this project is not installed.
"""

from __future__ import annotations

import math
import runpy
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TextIteratorStreamer,
    TopPLogitsWarper,
)

Message = dict[str, Any]
FORMS = 'a list of messages like {"role": "user", "content": "..."}'


class ChatModel(PythonModel):
    """`predict` takes one conversation, a list of them, plain prompts, or a DataFrame with a `messages` or `prompt` column."""

    def load_context(self, context: Any) -> None:
        """Load the merged checkpoint that was registered, or the base with the adapters that are not merged into it."""
        folders = context.artifacts
        folder = folders.get("checkpoint") or folders["base"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        config = AutoConfig.from_pretrained(folder)
        self.answers_apart = config.is_encoder_decoder  # its output does not repeat the question
        self.longest = None if self.answers_apart else getattr(config, "max_position_embeddings", None)
        self.model: Any = (AutoModelForSeq2SeqLM if self.answers_apart else AutoModelForCausalLM).from_pretrained(folder)
        self.ends = self.model.generation_config.eos_token_id  # EOS, and what ends a turn in the chat template
        for name in sorted(name for name in folders if name.startswith("adapter") and "checkpoint" not in folders):
            self.model = with_adapter(self.model, Path(folders[name]))
        soft = isinstance(self.model, PeftModel)  # a soft prompt: it takes places too, and peft changes the model while it writes
        if soft and self.longest is not None:
            self.longest -= getattr(self.model.active_peft_config, "num_virtual_tokens", 0)
        self.turn: Any = Lock() if soft else nullcontext()
        self.model.eval()

    # Without annotations: MLflow turns them into a schema, and an input of several forms has none.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """One answer per conversation; greedy unless `temperature` is above 0.

        Raises:
            MlflowException: in one sentence, when input or parameters cannot be worked with. A server answers 400 then.
        """
        settings = settings_of(params)
        asked = [self.encoded(messages) for messages in conversations(model_input)]
        return [self._answer(ids, settings, position) for position, ids in enumerate(asked)]

    def predict_stream(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """The answer to one conversation, in pieces as they are decoded; joined, they are what `predict` returns."""
        settings, asked = settings_of(params), conversations(model_input)
        if len(asked) != 1:
            raise refused(f"a stream answers one conversation; {len(asked)} were given")
        return self.pieces(self.encoded(asked[0]), settings)

    def encoded(self, messages: list[Message]) -> torch.Tensor:
        """Token ids, [1, length], of a conversation up to where the assistant speaks."""
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template raises what it likes, for a role that it does not know, say
            raise refused(f"the model's chat template refuses these messages: {error}") from None
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=False)["input_ids"] + self._after()])
        if self.longest is not None and ids.shape[1] >= self.longest:
            said = f"the conversation has {ids.shape[1]} tokens"
            raise refused(f"{said}; with its answer the model reads {self.longest}: shorten it")
        return ids

    def _after(self) -> list[int]:
        """What ends the text of an encoder: EOS, where the tokenizer writes one after every text, as T5's does."""
        last = self.tokenizer("a")["input_ids"][-1:]
        return last if self.answers_apart and last == [self.tokenizer.eos_token_id] else []

    def _answer(self, ids: torch.Tensor, settings: Settings, position: int) -> str:
        answer = str(self.tokenizer.decode(self._generate(ids, settings, position), skip_special_tokens=True))
        return answer[: first_of(settings.stop, answer)]

    def room(self, ids: torch.Tensor, settings: Settings) -> int:
        """New tokens that the conversation leaves room for."""
        return settings.max_new_tokens if self.longest is None else min(settings.max_new_tokens, self.longest - ids.shape[1])

    def _generate(self, ids: torch.Tensor, settings: Settings, position: int = 0, streamer: Any = None) -> torch.Tensor:
        """The new tokens, [length], by greedy decoding; a sample is the most likely token after noise of its own was added."""
        with torch.no_grad(), self.turn:
            out = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.room(ids, settings),
                do_sample=False,
                logits_processor=LogitsProcessorList(settings.draws(position)),
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.ends,
                streamer=streamer,
                **({"stop_strings": list(settings.stop), "tokenizer": self.tokenizer} if settings.stop else {}),
            )
        return out[0, 1 if self.answers_apart else ids.shape[1] :]

    def pieces(self, ids: torch.Tensor, settings: Settings) -> Generator[str, None, torch.Tensor]:
        """The answer in pieces as they are decoded; returns its tokens, [length]."""
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=not self.answers_apart, skip_special_tokens=True)
        tokens: Future[torch.Tensor] = Future()

        def work() -> None:
            try:
                tokens.set_result(self._generate(ids, settings, streamer=streamer))
            except BaseException as error:
                tokens.set_exception(error)
                streamer.end()

        Thread(target=work, daemon=True).start()
        yield from until_stop(streamer, settings.stop)
        return tokens.result()


@dataclass(frozen=True)
class Settings:
    """How an answer is decoded: the parameters of a request, checked."""

    max_new_tokens: int = 128
    temperature: float = 0.0  # 0: the most likely token
    top_p: float = 1.0
    stop: tuple[str, ...] = ()  # an answer ends before the first of these texts
    seed: int = 0

    def draws(self, position: int) -> list[LogitsProcessor]:
        """What turns greedy decoding into sampling, for the conversation at this place of the request."""
        if self.temperature == 0:
            return []
        nucleus = [TopPLogitsWarper(self.top_p)] if self.top_p < 1 else []
        return [TemperatureLogitsWarper(self.temperature), *nucleus, GumbelNoise(self.seed, position)]


class GumbelNoise(LogitsProcessor):
    """The most likely token after Gumbel noise is a sample of the softmax (Gumbel 1954; arXiv 1411.0030).

    The generator belongs to one conversation: a global seed would be shared by requests that are served at once.
    """

    def __init__(self, seed: int, position: int) -> None:
        self.generator = torch.Generator().manual_seed((seed + 0x9E3779B97F4A7C15 * position) % 2**63)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits [1, vocabulary] with noise."""
        exponential = torch.empty(scores.shape, dtype=torch.float64).exponential_(generator=self.generator)
        return scores.double() - exponential.log().to(scores.device)


def settings_of(params: Any) -> Settings:
    """The parameters of a request. `max_tokens` is OpenAI's name of `max_new_tokens`.

    Raises:
        MlflowException: for an unknown parameter, or a value outside its range.
    """
    given = {name: plain(value) for name, value in (params or {}).items() if value is not None}
    known = [field.name for field in fields(Settings)]
    if "max_tokens" in given:
        given["max_new_tokens"] = given.pop("max_tokens")
    if unknown := sorted(set(given) - set(known)):
        raise refused(f"unknown parameter {', '.join(unknown)}: known are {', '.join(known)} and max_tokens")
    stop = given.get("stop", ())
    given["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    settings = Settings(**given)
    for name, holds, allowed in RANGES:
        value = getattr(settings, name)
        if not holds(value):
            raise refused(f"{name} is {value!r}: allowed is {allowed}")
    return settings


def plain(value: Any) -> Any:
    """A value of NumPy or pandas as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


RANGES = (
    ("max_new_tokens", lambda n: _whole(n) and n >= 1, "a whole number from 1"),
    ("temperature", lambda t: _number(t) and (t == 0 or t >= 0.001), "0, the most likely token, or a number from 0.001"),
    ("top_p", lambda p: _number(p) and 0 < p <= 1, "a number above 0, up to 1"),
    ("stop", lambda stops: all(isinstance(text, str) and text for text in stops), "texts of at least one character"),
    ("seed", lambda n: _whole(n) and 0 <= n < 2**63, "a whole number from 0 to 2**63 - 1"),
)


def refused(sentence: str) -> MlflowException:
    """An error of the request: status 400, without a stack trace."""
    return MlflowException.invalid_parameter_value(sentence)


def first_of(stops: tuple[str, ...], text: str) -> int:
    """Where the first stop text begins, or the length of the text."""
    return min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))


def until_stop(pieces: Any, stops: tuple[str, ...]) -> Iterator[str]:
    """The pieces up to the first stop text. The end of what was read is held back while it may be the start of one."""
    held, longest = "", max(map(len, stops), default=1)
    for piece in pieces:
        held += piece
        if (end := first_of(stops, held)) < len(held):
            held = held[:end]
            break
        sure = max(len(held) - longest + 1, 0)
        if held[:sure]:
            yield held[:sure]
        held = held[sure:]
    if held:
        yield held


def with_adapter(model: Any, folder: Path) -> Any:
    """The model with an adapter in it: by peft, or by the loader that lies in the folder of what peft does not have."""
    if not (folder / "adapter_config.json").exists():
        return runpy.run_path(str(folder / "delta.py"))["load_delta"](model, folder)
    adapted = PeftModel.from_pretrained(model, str(folder))
    return adapted if adapted.active_peft_config.is_prompt_learning else adapted.get_base_model()


def conversations(model_input: Any) -> list[list[Message]]:
    """Every accepted input as a list of conversations.

    Raises:
        MlflowException: when it is none of the forms.
    """
    if hasattr(model_input, "columns"):
        names = list(model_input.columns)
        column = next((name for name in ("messages", "prompt") if name in names), names[0] if len(names) == 1 else None)
        if column is None:
            raise refused(f"columns {', '.join(map(str, names))}: one of them must be named messages or prompt")
        model_input = model_input[column]
    model_input = plain(model_input)
    model_input = [model_input] if isinstance(model_input, str | dict) else model_input
    if not isinstance(model_input, list | tuple):
        raise refused(f"the input is of type {type(model_input).__name__}: allowed are a prompt, or {FORMS}, or a list of such")
    if model_input and all(isinstance(item, dict) and not {"messages", "prompt"} & set(item) for item in model_input):
        model_input = [model_input]
    return [_conversation(item, place) for place, item in enumerate(model_input)]


def _conversation(item: Any, place: int) -> list[Message]:
    item = _only_one(item, place) if isinstance(item, dict) else item
    if isinstance(item, str):
        item = [{"role": "user", "content": item}]
    item = plain(item)
    if not isinstance(item, list | tuple) or not item:
        raise refused(f"conversation {place}: allowed is {FORMS}")
    return [_message(message, f"conversation {place}, message {number}") for number, message in enumerate(item)]


def _only_one(item: Message, place: int) -> Any:
    """What a dictionary asks. `model` is allowed, since clients of OpenAI's interface always send it."""
    if unknown := sorted(map(str, set(item) - {"messages", "prompt", "model"})):
        raise refused(f"conversation {place} has {', '.join(unknown)}, which nothing reads: parameters go into `params`")
    if ("messages" in item) == ("prompt" in item):
        raise refused(f"conversation {place} needs either messages or prompt")
    return item["messages"] if "messages" in item else item["prompt"]


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise refused(f'{where}: a message is {{"role": "user", "content": "..."}}, not {type(message).__name__}')
    if not isinstance(role := message.get("role"), str) or not role:
        raise refused(f"{where} has no role: allowed are system, user, assistant and what the chat template knows")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)  # OpenAI's parts
    if not isinstance(content, str):
        raise refused(f"{where} has no text: `content` must be a string or a list of text parts")
    return {**message, "content": content}


set_model(ChatModel())
