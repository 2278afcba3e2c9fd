"""Tokenizers: a byte-level BPE for models from scratch, and the chat template that a tokenizer without one is given."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from schemas.errors import Refusal

EOS, PAD = "<|endoftext|>", "<|pad|>"

# For a tokenizer that has no template: plain text, so that it fits every vocabulary. A turn is its role with a colon on a line of
# its own, the content as it is and, after the assistant's, the EOS token. An empty line stands between turns, and BOS before the
# first where the tokenizer has one. A completion starts right after "Assistant:\n".
DEFAULT_CHAT_TEMPLATE = (
    "{%- if bos_token %}{{ bos_token }}{% endif %}"
    "{%- for message in messages %}"
    "{{- message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{%- if not loop.last or add_generation_prompt %}{{ '\n\n' }}{% endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)


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


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Give the tokenizer what every stage needs: an EOS, a padding token, a chat template with BOS; idempotent.

    All of it is saved with the model, so that whoever loads it renders a chat as in training:

    - a tokenizer without a padding token pads with EOS, which is still trained on: padding is masked by length;
    - one without a chat template gets `DEFAULT_CHAT_TEMPLATE`;
    - one that starts each text with BOS, and whose template does not write it, gets a template that does: rendered chats are
      encoded without special tokens, here and by most who serve them, and the model would never see the BOS that it knows.

    Raises:
        Refusal: for a tokenizer without an EOS token.
    """
    if tokenizer.eos_token_id is None:
        raise Refusal("model", "a tokenizer without an EOS token", "a tokenizer with eos_token", "set eos_token in its folder")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    before, _ = added_tokens(tokenizer)
    if tokenizer.bos_token_id in before and not writes_bos(tokenizer):
        tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    return tokenizer


def writes_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a rendered chat starts with BOS, which then starts documents too."""
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    return tokenizer.bos_token is not None and str(chat).startswith(str(tokenizer.bos_token))


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Special tokens that the tokenizer puts before and after a text by itself: BOS before it for Llama, EOS after it for T5.

    Seen from what it does: attributes such as `add_bos_token` are not kept by every tokenizer.
    """
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]
