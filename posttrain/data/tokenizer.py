"""Tokenizers: a byte-level BPE for models from scratch, and what a tokenizer is given that every stage needs."""

from __future__ import annotations

import traceback
from collections.abc import Iterable

from jinja2 import TemplateError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from posttrain.data.chat_templates import DEFAULT_CHAT_TEMPLATE
from posttrain.data.rendering import rendered
from schemas.errors import Refusal

EOS, PAD = "<|endoftext|>", "<|pad|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with at most `vocab_size` tokens, EOS and padding included; the same texts give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD)


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """Give the tokenizer what every stage needs: an EOS, a padding token, a chat template with BOS; idempotent.

    All of it is saved with the model, so that whoever loads it renders a chat as in training:

    - a tokenizer without a padding token pads with EOS, which is still trained on: padding is masked by length;
    - `chat_template` takes the place of the tokenizer's own, and one without any gets `DEFAULT_CHAT_TEMPLATE`;
    - one that starts each text with BOS, and whose template does not write it, gets a template that does.

    The last is how Llama 3, Gemma and Mistral are published, and it gives one BOS by every route that is meant for chats:
    `apply_chat_template(tokenize=True)`, vLLM's chat endpoint and TRL encode what the template wrote without special tokens, and
    llama.cpp drops the template's BOS before it adds its own. Without BOS in the template all of them but llama.cpp would give
    none, to a model that knows no text without it. Whoever calls the tokenizer on a rendered chat says
    `add_special_tokens=False`, as encoders and consumer here do; a plain call gives two, as with those models. The tokenizer
    still adds BOS to plain texts, which would lose it otherwise: a base model without its BOS is far out of distribution.

    Raises:
        Refusal: for a tokenizer without an EOS token, or a template that cannot be rendered.
    """
    if tokenizer.eos_token_id is None:
        raise Refusal(
            where="model",
            found="a tokenizer without an EOS token",
            allowed="a tokenizer with eos_token",
            remedy="set eos_token in its folder",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if chat_template:
        tokenizer.chat_template = chat_template
    template = template_of(tokenizer) or _give(tokenizer, DEFAULT_CHAT_TEMPLATE)
    before, _ = added_tokens(tokenizer)
    if tokenizer.bos_token_id in before and not writes_bos(tokenizer):
        _give(tokenizer, "{{ bos_token }}" + template)
    return tokenizer


def template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template that the tokenizer has, of several the one named default; None where there is none."""
    given = tokenizer.chat_template
    return given.get("default") if isinstance(given, dict) else given


def _give(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """Set the template; others that the tokenizer names, for tools say, stay beside it."""
    given = tokenizer.chat_template
    tokenizer.chat_template = {**given, "default": template} if isinstance(given, dict) else template
    return template


def writes_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a rendered chat starts with BOS, which then starts documents too.

    Raises:
        Refusal: when the template can render no chat, however short.
    """
    return tokenizer.bos_token is not None and some_chat(tokenizer).startswith(str(tokenizer.bos_token))


# A template may insist on a system message.
_CHATS = ([{"role": "user", "content": "a"}], [{"role": "system", "content": "a"}, {"role": "user", "content": "a"}])


def some_chat(tokenizer: PreTrainedTokenizerBase) -> str:
    """A short chat as the template writes it.

    Raises:
        Refusal: when the template can render none.
    """
    for chat in _CHATS:
        try:
            return rendered(tokenizer, chat)
        except Refusal:
            raise
        except Exception as error:  # the template is a program, and may fail in any way
            refusal = error
    raise broken_template(refusal) from refusal


def refuses(error: Exception) -> bool:
    """Whether an error is what a template itself says of a conversation, by `raise_exception`, rather than a fault in it."""
    return type(error) is TemplateError


def broken_template(error: Exception) -> Refusal:
    """The refusal of a template that cannot be rendered, with the line of the template where that shows."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename in ("<template>", "<unknown>")]
    at = f" at line {lines[-1]}" if lines else ""
    return Refusal(
        where="model.chat_template",
        found=f"a chat template that fails{at}: {error}",
        allowed="a template that renders every chat",
        remedy="mend the template, or name another one in model.chat_template",
    )


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Special tokens that the tokenizer puts before and after a text by itself: BOS before it for Llama, EOS after it for T5.

    Seen from what it does: attributes such as `add_bos_token` are not kept by every tokenizer.
    """
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]
