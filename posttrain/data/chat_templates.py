"""Chat templates that a recipe can name or give as a file: how a conversation becomes the text that a model reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

from schemas.errors import Refusal, closest
from schemas.results import TemplateReport

MAX_BYTES = 64 * 1024  # of a file; the longest templates in public use have some 20 KB

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

# Where a format has no place for a system message: what stands before the first other turn, as Gemma 3 and Mistral have it.
_SYSTEM_LEADS = "{%- set lead = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"

BUILT_IN = {
    "default": DEFAULT_CHAT_TEMPLATE,
    # Qwen, SmolLM2, OpenHermes and many others.
    "chatml": (
        "{%- for message in messages %}"
        "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"
    ),
    # Llama 3, without the dates and tools that Llama 3.1 and later add to the system message.
    "llama3": (
        "{{- bos_token }}"
        "{%- for message in messages %}"
        "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{{- message['content'] | trim + '<|eot_id|>' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    # Gemma 1 to 3; a system message leads the first turn, as in Gemma 3.
    "gemma": (
        "{{- bos_token }}" + _SYSTEM_LEADS + "{%- for message in messages if message['role'] != 'system' %}"
        "{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
        "{{- lead if loop.first else '' }}"
        "{{- message['content'] | trim + '<end_of_turn>\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{% endif %}"
    ),
    # Mistral's tokenizers of version 3, in which [INST] and [/INST] are tokens; the answer follows without a header.
    "mistral": (
        "{{- bos_token }}" + _SYSTEM_LEADS + "{%- for message in messages if message['role'] != 'system' %}"
        "{%- if message['role'] == 'assistant' %}"
        "{{- ' ' + message['content'] | trim + eos_token }}"
        "{%- else %}"
        "{{- '[INST] ' + (lead if loop.first else '') + message['content'] + '[/INST]' }}"
        "{%- endif %}"
        "{%- endfor %}"
    ),
    # Zephyr, StableLM.
    "zephyr": (
        "{%- for message in messages %}"
        "{{- '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{% endif %}"
    ),
}


def read_template(given: str | None, field: str) -> str | None:
    """The template behind a recipe's value: of a built-in name or of a Jinja file; None is the tokenizer's own.

    Raises:
        Refusal: when it is neither, or the file is no text of at most 64 KiB; `field` is where the recipe names it.
    """
    if given is None or given in BUILT_IN:
        return BUILT_IN[given] if given else None
    path, names = Path(given).expanduser(), ", ".join(BUILT_IN)
    allowed = f"a Jinja file, or one of {names}"
    if not path.is_file():
        guess = closest(given, BUILT_IN)
        raise Refusal(
            where=field,
            found=f"{given!r}, which is no file",
            allowed=allowed,
            remedy=f"did you mean {guess}?" if guess else "check the path",
        )
    if (size := path.stat().st_size) > MAX_BYTES:
        raise Refusal(
            where=field,
            found=f"{given}, a file of {size:,} bytes",
            allowed=f"at most {MAX_BYTES:,} bytes",
            remedy="name the template's own file",
        )
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise Refusal(
            where=field, found=f"{given}, which is no text in UTF-8", allowed=allowed, remedy="check the path"
        ) from None


def template_digest(text: str) -> str:
    """SHA-256 of a template's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def of_a_new_model() -> TemplateReport:
    """A new model's template is the project's own, which takes every chat."""
    return TemplateReport(origin="default", sha256=template_digest(DEFAULT_CHAT_TEMPLATE))
