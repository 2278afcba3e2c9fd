"""Built-in chat templates against what the public ones render, and the reading of a template that a recipe gives."""

from __future__ import annotations

import hashlib

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from posttrain.data.chat_templates import BUILT_IN, MAX_BYTES, read_template, template_digest
from posttrain.data.tokenizer import DEFAULT_CHAT_TEMPLATE
from schemas.errors import Refusal

TURNS = [
    ("system", "You are a helpful assistant"),
    ("user", "Hello"),
    ("assistant", "Hi there"),
    ("user", "Who are you"),
    ("assistant", "   I am an assistant   "),
    ("user", "Another question"),
]

# What the templates of the models named here render for TURNS with a generation prompt: the table of llama.cpp's
# tests/test-chat-template.cpp, with BOS put before it, which that test leaves out.
PUBLIC = {
    # teknium/OpenHermes-2.5-Mistral-7B
    "chatml": (
        "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi there<|im_end|>\n<|im_start|>user\nWho are you<|im_end|>\n"
        "<|im_start|>assistant\n   I am an assistant   <|im_end|>\n<|im_start|>user\nAnother question<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    # Llama-3
    "llama3": (
        "<bos><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful assistant<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHi there<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWho are you<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nI am an assistant<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnother question<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    # google/gemma-7b-it; the system message where Gemma 3 has it
    "gemma": (
        "<bos><start_of_turn>user\nYou are a helpful assistant\n\nHello<end_of_turn>\n"
        "<start_of_turn>model\nHi there<end_of_turn>\n"
        "<start_of_turn>user\nWho are you<end_of_turn>\n<start_of_turn>model\nI am an assistant<end_of_turn>\n"
        "<start_of_turn>user\nAnother question<end_of_turn>\n<start_of_turn>model\n"
    ),
    # Mistral-Large-Instruct-2407 (v3), system message at the start
    "mistral": (
        "<bos>[INST] You are a helpful assistant\n\nHello[/INST] Hi there<eos>[INST] Who are you[/INST] I am an assistant<eos>"
        "[INST] Another question[/INST]"
    ),
}

# The model card of HuggingFaceH4/zephyr-7b-beta.
ZEPHYR = (
    "<|system|>\nYou are a friendly chatbot who always responds in the style of a pirate.<eos>\n"
    "<|user|>\nHow many helicopters can a human eat in one sitting?<eos>\n"
    "<|assistant|>\n"
)


def render(name: str, turns, **options) -> str:
    """As transformers renders a tokenizer's template."""
    messages = [{"role": role, "content": content} for role, content in turns]
    [text], _ = render_jinja_template([messages], chat_template=BUILT_IN[name], bos_token="<bos>", eos_token="<eos>", **options)
    return text


@pytest.mark.parametrize("name", PUBLIC)
def test_a_built_in_template_renders_what_the_public_one_does(name):
    assert render(name, TURNS, add_generation_prompt=True) == PUBLIC[name]


def test_zephyr_renders_the_example_of_its_model_card():
    turns = [line.removeprefix("<|").removesuffix("<eos>").split("|>\n") for line in ZEPHYR.split("\n<|")[:2]]
    assert [role for role, _ in turns] == ["system", "user"]
    assert render("zephyr", turns, add_generation_prompt=True) == ZEPHYR


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("system", [True, False])
def test_a_prompt_is_the_start_of_prompt_and_answer(name, system):
    """Then a completion starts where the prompt ends; of Mistral's v3 with a blank."""
    turns = TURNS[not system : 4]
    prompt, whole = render(name, turns, add_generation_prompt=True), render(name, [*turns, ("assistant", "Me")])
    assert whole.startswith(prompt)
    assert whole[len(prompt) :].lstrip(" ").startswith("Me")
    assert whole.count("<bos>") == (name not in ("chatml", "zephyr"))
    assert whole.count("You are a helpful assistant") == system


def test_a_name_a_file_and_nothing_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.jinja").write_text("{{ 'é' }}\n", "utf-8")
    assert read_template(None, "model.chat_template") is None
    assert read_template("default", "model.chat_template") == DEFAULT_CHAT_TEMPLATE
    assert read_template("./my.jinja", "model.chat_template") == "{{ 'é' }}\n"
    assert template_digest("é") == hashlib.sha256(b"\xc3\xa9").hexdigest()


def test_what_is_no_template_is_refused_by_the_field_that_names_it(tmp_path):
    (tmp_path / "big").write_text("a" * (MAX_BYTES + 1))
    (tmp_path / "binary").write_bytes(b"GGUF\xff")
    wanted = {
        "chatlm": ("'chatlm', which is no file", "did you mean chatml?"),
        str(tmp_path / "none.jinja"): ("which is no file", "check the path"),
        str(tmp_path): ("which is no file", "check the path"),
        str(tmp_path / "big"): ("a file of 65,537 bytes", "own file"),
        str(tmp_path / "binary"): ("no text in UTF-8", "check the path"),
    }
    for given, said in wanted.items():
        with pytest.raises(Refusal) as refused:
            read_template(given, "reward.model.chat_template")
        assert refused.value.where == "reward.model.chat_template"
        assert all(part in str(refused.value) for part in said), str(refused.value)
