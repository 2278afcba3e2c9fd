"""Training on every answer of a conversation: the mask against one that is worked out from the text, template by template."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from jinja2 import TemplateError

from posttrain.data.chat_templates import BUILT_IN
from posttrain.data.encode import encode_conversations
from posttrain.data.end_tokens import end_tokens
from posttrain.data.packing import Example
from posttrain.data.rendering import rendered
from posttrain.scoring.scorer import Scorer
from posttrain.training.objectives import LanguageModelling
from schemas.messages import MESSAGES

# ChatML that marks what the assistant says, without the token that ends it.
MARKED = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{% endgeneration %}"
    "{%- else %}{{ message['content'] }}{% endif %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"
)
# Writes the last answer in full and earlier ones without their first word, as templates do with reasoning.
FORGETFUL = (
    "{%- for message in messages %}{{- message['role'] + ': ' }}"
    "{{- message['content'] if loop.last or message['role'] != 'assistant' else message['content'].split(' ')[-1] }}"
    "{{- eos_token if message['role'] == 'assistant' else '' }}{{- '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'assistant: ' }}{% endif %}"
)


def conversation(*contents: str, **extra: dict[int, dict[str, object]]) -> pl.DataFrame:
    more = extra.get("extra", {})
    said = [
        {
            "role": ("user", "assistant")[at % 2],
            "content": content,
            "extra": json.dumps(more[at]) if at in more else None,
        }
        for at, content in enumerate(contents)
    ]
    return pl.DataFrame({"prompt": [said[:-1]], "completion": [said[-1:]]}, schema={"prompt": MESSAGES, "completion": MESSAGES})


TALK = ("Is it clean?", "It is clean.", "And quiet?", "Quiet as well.", "Thanks.", "You are welcome.")


def encode(table: pl.DataFrame, tokenizer, train_on: str = "all", max_length: int = 400):
    return encode_conversations(table, tokenizer, max_length, "data.instructions", train_on=train_on)


def targets(example: Example) -> list[int]:
    trained = slice(None) if example.trained is None else example.trained
    return example.branches[0][trained].tolist()


@pytest.fixture(params=[*BUILT_IN, "marked"])
def templated(request, tokenizer):
    """A tokenizer with the template, for which its markers are tokens."""
    tokenizer.chat_template = MARKED if request.param == "marked" else BUILT_IN[request.param]
    tokenizer.add_special_tokens({"bos_token": "<s>", "extra_special_tokens": ["<|im_end|>", "<|eot_id|>", "<end_of_turn>"]})
    return tokenizer


def test_every_answer_is_a_target_with_what_ends_it(templated):
    """The independent mask: the answers' own text in the rendered chat, by the characters of each token, and the token after."""
    (example,) = encode(conversation(*TALK), templated).examples
    tokens = np.concatenate([example.prompt, example.branches[0]]).tolist()
    last = encode(conversation(*TALK), templated, "last").examples[0]
    assert tokens == np.concatenate([last.prompt, last.branches[0]]).tolist()
    whole = rendered(templated, [m for column in conversation(*TALK).row(0) for m in column])
    spans = [(start := whole.index(answer), start + len(answer)) for answer in TALK[1::2]]
    offsets = templated(whole, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"][: len(tokens)]
    inside = np.array([any(a < end and b > start for start, end in spans) for a, b in offsets])
    trained = np.r_[np.zeros(len(example.prompt), bool), example.trained]
    assert trained[: len(offsets)][inside].all()
    after = [next(at for at, (a, _) in enumerate(offsets) if a >= end) for _, end in spans]
    assert all(trained[at] and tokens[at] in end_tokens(templated) for at in after)
    rest = set(np.flatnonzero(trained[: len(offsets)] & ~inside)) - set(after)
    assert all(not templated.decode([tokens[at]]).strip() for at in rest)  # blanks beside an answer
    assert tokens[-1] == templated.eos_token_id
    assert example.trained[-1]


def test_what_stands_between_the_answers_is_not_trained_on(tokenizer):
    (example,) = encode(conversation(*TALK), tokenizer).examples
    assert tokenizer.decode(example.prompt) == "User:\nIs it clean?\n\nAssistant:\n"
    assert (
        tokenizer.decode(targets(example)) == "It is clean.<|endoftext|>Quiet as well.<|endoftext|>You are welcome.<|endoftext|>"
    )
    assert example.targets == len(targets(example)) < len(example.branches[0])


def test_the_last_answer_alone_is_as_it_was(tokenizer):
    (example,) = encode(conversation(*TALK), tokenizer, "last").examples
    assert example.trained is None
    assert tokenizer.decode(example.branches[0]) == "You are welcome.<|endoftext|>"


def test_one_answer_is_the_same_example_either_way(tokenizer):
    both = [encode(conversation(*TALK[:2]), tokenizer, way).examples[0] for way in ("all", "last")]
    assert both[0].trained is None
    assert both[0].prompt.tolist() == both[1].prompt.tolist()
    assert both[0].branches[0].tolist() == both[1].branches[0].tolist()


def test_an_answer_of_weight_0_is_read_and_not_trained_on(tokenizer):
    (example,) = encode(conversation(*TALK, extra={1: {"weight": 0}}), tokenizer).examples
    assert tokenizer.decode(targets(example)) == "Quiet as well.<|endoftext|>You are welcome.<|endoftext|>"
    assert "It is clean." in tokenizer.decode(example.prompt)


def test_a_cut_prompt_keeps_its_mask_in_step(tokenizer):
    whole = encode(conversation(*TALK), tokenizer).examples[0]
    (example,) = encode(conversation(*TALK), tokenizer, max_length=whole.length - 20).examples
    assert example.length == whole.length - 20
    assert tokenizer.decode(targets(example)).endswith("Quiet as well.<|endoftext|>You are welcome.<|endoftext|>")
    assert targets(whole)[-len(targets(example)) :] == targets(example)


def test_an_answer_that_the_template_writes_otherwise_later_is_counted_and_left_out(tokenizer):
    tokenizer.chat_template = FORGETFUL
    encoded = encode(conversation(*TALK), tokenizer)
    assert (encoded.turns, encoded.turns_unlike) == (0, 2)
    assert tokenizer.decode(targets(encoded.examples[0])) == "You are welcome.<|endoftext|>"
    assert encoded.summary().endswith(", 2 not, which the template writes otherwise once the conversation goes on")


def test_tools_calls_and_reasoning_reach_the_template(tokenizer):
    template = (
        "{% if tools %}{{ tools[0].function.name }} {% endif %}{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments.q }}){% endfor %}"
        "{{ m.reasoning_content or '' }};{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    tokenizer.chat_template = template
    call = {"type": "function", "function": {"name": "find", "arguments": {"q": "tea"}}}
    tools = [{"type": "function", "function": {"name": "find"}}]
    chat = conversation("q", "", extra={0: {"tools": tools}, 1: {"tool_calls": [call], "reasoning_content": "hm", "weight": 0}})
    assert rendered(tokenizer, [m for column in chat.row(0) for m in column]) == "find user:q;assistant:find(tea)hm;"


def test_what_the_template_has_no_place_for_leaves_its_row_out(tokenizer):
    chat = conversation("q", "a", extra={0: {"tools": [{"type": "function"}]}})
    with pytest.raises(TemplateError, match="no place for tools"):
        rendered(tokenizer, chat.row(0)[0])
    ((row, reason),) = encode(chat, tokenizer).left_out
    assert (row, reason.partition(": ")[2]) == (0, "it has no place for tools, which `ignore` would leave out")


@pytest.mark.parametrize("layout", ["packed", "padded", "plain"])
def test_masked_scores_are_those_of_the_whole_at_the_targets(layout, tokenizer, tiny_llama):
    """Loss over all answers = sum over the mask of the log-probabilities that the model's own logits give."""
    one = encode(conversation(*TALK), tokenizer).examples[0]
    two = encode(conversation(*TALK[:2]), tokenizer).examples[0]
    policy_model = tiny_llama(len(tokenizer))
    scorer = Scorer(policy_model, torch.device("cpu"), layout=layout).eval()
    scores = scorer([one, two])
    expected = []
    for example in (one, two):
        ids = torch.from_numpy(np.concatenate([example.prompt, example.branches[0]]).astype("int64"))[None]
        with torch.no_grad():
            logits = policy_model(input_ids=ids).logits[0].log_softmax(-1)
        every = logits[:-1].gather(1, ids[0, 1:, None])[:, 0][len(example.prompt) - 1 :]
        expected.append(every if example.trained is None else every[torch.from_numpy(example.trained)])
    torch.testing.assert_close(scores.logprobs.detach(), torch.cat(expected), atol=2e-5, rtol=1e-4)
    objective = LanguageModelling([one, two])
    assert objective.units([0, 1]) == one.targets + two.targets == len(scores.logprobs)
    loss, _ = objective.loss(scores, [0, 1])
    torch.testing.assert_close(loss.detach(), -torch.cat(expected).sum(), atol=1e-3, rtol=1e-4)


def test_a_greeting_before_the_first_question_is_read_and_not_trained_on(tokenizer):
    """Nothing is asked before it, so that no template says where it starts; the answers after it are trained on as ever."""
    said = [
        {"role": role, "content": text, "extra": None}
        for role, text in (
            ("assistant", "Hello."),
            ("user", "Clean?"),
            ("assistant", "Yes."),
            ("user", "Quiet?"),
            ("assistant", "No."),
        )
    ]
    table = pl.DataFrame({"prompt": [said[:-1]], "completion": [said[-1:]]}, schema={"prompt": MESSAGES, "completion": MESSAGES})
    encoded = encode(table, tokenizer)
    assert (encoded.turns, encoded.turns_unlike) == (1, 1)
    text = tokenizer.decode(targets(encoded.examples[0]))
    assert "Yes." in text
    assert "No." in text
    assert "Hello." not in text
