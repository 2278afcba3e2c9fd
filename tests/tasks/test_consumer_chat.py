"""The consumer reads chats as in training, with one BOS, and stops where the exported generation config says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.checkpoints.export import export
from posttrain.checkpoints.load import scratch_model
from posttrain.data.tokenizer import train_tokenizer
from posttrain.models.policy import Policy
from schemas.model import ScratchModel
from tasks.consumer import ChatModel

TEXTS = [
    "User:\nWrite a review of the hotel.\n\nAssistant:\nThe hotel was clean and the staff was kind.",
    "Hello, world! 1, 2, 3.",
]
QUESTION = "Write a review of the hotel."
TURNS = "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}<|turn|>assistant:"


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """An exported checkpoint whose tokenizer starts each text with BOS by itself; its template ends turns with `<|end|>`."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = train_tokenizer(TEXTS * 3, 320)
    tokenizer.add_special_tokens({"bos_token": "<|bos|>", "additional_special_tokens": ["<|turn|>", "<|end|>"]})
    before = ("<|bos|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|bos|> $A", special_tokens=[before])
    tokenizer.chat_template = TURNS
    shape = {"hidden_size": 32, "layers": 2, "heads": 4}
    model = scratch_model(ScratchModel(source="scratch", architecture="llama", **shape), tokenizer, seed=0)
    for parameter in (p for p in model.parameters() if p.dim() > 1):
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder / "trained")
    tokenizer.save_pretrained(folder / "trained")
    export(Policy(str(folder / "trained")), folder / "out")
    return folder / "out" / "checkpoint"


def ask(folder: Path) -> str:
    context, consumer = SimpleNamespace(artifacts={"checkpoint": str(folder)}), ChatModel()
    consumer.load_context(context)
    [answer] = consumer.predict(context, QUESTION, {"max_new_tokens": 8})
    return answer


def continued(folder: Path, start: str) -> str:
    """The eight most likely tokens after a text that is encoded as it stands, one after the other; specials are left out."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(start, add_special_tokens=False)["input_ids"]
    length = len(ids)
    with torch.no_grad():
        while len(ids) < length + 8 and ids[-1] not in model.generation_config.eos_token_id:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return tokenizer.decode(ids[length:], skip_special_tokens=True)


def test_a_question_is_read_with_one_bos_in_the_template_that_was_trained(exported):
    start = f"<|bos|><|turn|>user\n{QUESTION}<|end|>\n<|turn|>assistant:"
    assert ask(exported) == continued(exported, start)
    assert ask(exported) != continued(exported, "<|bos|>" + start)


def test_an_answer_ends_at_any_token_of_the_generation_config(exported):
    """What the template ends a turn with is one. Where every token is one, an answer has a single token."""
    tokenizer, model = AutoTokenizer.from_pretrained(exported), AutoModelForCausalLM.from_pretrained(exported)
    ends = model.generation_config.eos_token_id
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|endoftext|>", "<|end|>"]
    context, consumer = SimpleNamespace(artifacts={"checkpoint": str(exported)}), ChatModel()
    consumer.load_context(context)
    assert consumer.ends == ends
    [long] = consumer.predict(context, QUESTION, {"max_new_tokens": 8})
    consumer.ends = list(range(len(tokenizer)))
    [short] = consumer.predict(context, QUESTION, {"max_new_tokens": 8})
    assert len(short) <= 1 < len(long)
