"""Chat templates as public models have them, with their faults, on rows of several shapes."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from posttrain.data.chat_templates import BUILT_IN, DEFAULT_CHAT_TEMPLATE, template_digest
from posttrain.pipeline.chain import Chain
from posttrain.pipeline.template_check import check_rows, shapes, template_in_use
from posttrain.runtime.store import Store
from schemas.data import Checks
from schemas.errors import Refusal
from schemas.load import validate_recipe

# Gemma 2's refusal of system messages, on the format of a tokenizer without its tokens.
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
TURNS = "{% for m in messages %}<{{ m['role'] }}>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
ASK = "{% if add_generation_prompt %}<assistant>\n{% endif %}"


def rows(system: int = 0, plain: int = 0, turns: int = 0, answer: str = "Good.") -> pl.LazyFrame:
    """A table of instructions: with a system message, with one question, and with two."""
    said = {role: [{"role": role, "content": f"One {role}."}] for role in ("system", "user", "assistant")}
    once, twice = said["user"], said["user"] + said["assistant"] + said["user"]
    prompts = [said["system"] + once] * system + [once] * plain + [twice] * turns
    return pl.DataFrame({"prompt": prompts, "completion": [[{"role": "assistant", "content": answer}]] * len(prompts)}).lazy()


def check(tokenizer, template: str, table: pl.LazyFrame, **checks) -> list[str]:
    tokenizer.chat_template = template
    return check_rows(tokenizer, table, "data.instructions", Checks(**checks))


def test_every_sequence_of_roles_is_one_shape_with_its_count():
    found = shapes(rows(system=2, plain=3, turns=1))
    assert found.select("shape", "rows").rows() == [
        ("system, user, assistant", 2), ("user, assistant", 3), ("user, assistant, user, assistant", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("template", [*BUILT_IN.values(), NO_SYSTEM + TURNS + ASK])
def test_a_good_template_is_passed_without_a_word(tokenizer, template):
    takes_all = 0 if template.startswith(NO_SYSTEM) else 3
    assert check(tokenizer, template, rows(system=takes_all, plain=3, turns=3)) == []


def test_rows_that_the_template_refuses_are_noted_with_their_number(tokenizer):
    [notice] = check(tokenizer, NO_SYSTEM + TURNS + ASK, rows(system=1, plain=5))
    assert notice == (
        "data.instructions: 1 of 6 rows (17%) that the chat template refuses (system, user, assistant: System role not "
        "supported): training and evaluation leave them out"
    )


@pytest.mark.parametrize(("system", "plain", "waive"), [(2, 4, ()), (4, 0, ()), (4, 0, ("max_drop_rate",))])
def test_too_many_refused_rows_are_refused(tokenizer, system, plain, waive):
    with pytest.raises(Refusal, match=rf"{system} of {system + plain} rows .* System role not supported") as refused:
        check(tokenizer, NO_SYSTEM + TURNS + ASK, rows(system, plain), waive=waive)
    assert refused.value.where == "data.instructions"
    assert "20% (data.checks.max_drop_rate)" in refused.value.allowed


def test_a_waived_limit_turns_the_refusal_into_a_notice(tokenizer):
    assert len(check(tokenizer, NO_SYSTEM + TURNS + ASK, rows(2, 4), waive=("max_drop_rate",))) == 1


def test_a_template_without_a_generation_prompt_is_refused_with_its_tokens(tokenizer):
    with pytest.raises(Refusal, match="'<assistant>' stands before the answers of data") as refused:
        check(tokenizer, TURNS, rows(plain=3))
    assert refused.value.where == "model.chat_template"


def test_a_template_that_opens_think_is_refused_unless_the_answers_think(tokenizer):
    """As DeepSeek-R1's distillations have it."""
    template = TURNS + ASK.replace("{% endif", "<think>\n{% endif")
    with pytest.raises(Refusal, match=r"'<assistant>\\n<think>\\n', on which the answers of 3 of 3 sampled rows") as refused:
        check(tokenizer, template, rows(plain=3))
    assert refused.value.where == "model.chat_template"
    assert check(tokenizer, template, rows(plain=3, answer="<think>\nIt is.\n</think>\nGood.")) == []


def test_what_a_template_writes_before_answers_is_noted(tokenizer):
    """Qwen 3 writes an empty thought before an answer, and ends its generation prompt before it."""
    template = TURNS.replace("{{ m['content'] }}", "{{ '<think></think>' if m['role'] == 'assistant' }}{{ m['content'] }}") + ASK
    assert check(tokenizer, template, rows(plain=3)) == [
        "data.instructions: the template writes '<think></think>' before each answer, which is trained on as a part of it"
    ]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("a\n{{ thing.name }}" + TURNS + ASK, "fails at line 2: 'thing' is undefined"),
        ("a\nb\n{% if %}", "fails at line 3: Expected an expression"),
        (TURNS + "\n\n{{ 1 + 'a' }}", "fails at line 5: unsupported operand"),
    ],
)
def test_a_broken_template_is_refused_with_its_line(tokenizer, template, said):
    with pytest.raises(Refusal, match=said) as refused:
        check(tokenizer, template, rows(plain=1))
    assert refused.value.where == "model.chat_template"


def chain_of(model: dict, folder: Path) -> Chain:
    """Of a small recipe on this model."""
    document = {"name": "t", "model": model, "data": {"instructions": "rows.jsonl", "corpus": "c.jsonl"}, "sft": {},
                "pretrain": {"tokens": 100} if model["source"] == "scratch" else None}  # fmt: skip
    return Chain(validate_recipe(document, "t"), Store(folder / "store"))


@pytest.fixture
def in_use(tokenizer, tmp_path):
    """What is said of a folder with this tokenizer: a function of what the recipe gives."""

    def describe(given: str | None = None):
        tokenizer.save_pretrained(tmp_path / "model")
        return template_in_use(chain_of({"source": "local", "path": str(tmp_path / "model"), "chat_template": given}, tmp_path))

    return describe


def test_the_default_template_is_noted_where_the_tokenizer_has_none(tokenizer, in_use):
    tokenizer.chat_template = None
    used = in_use()
    assert (used.report.origin, used.report.sha256) == ("default", template_digest(DEFAULT_CHAT_TEMPLATE))
    [notice] = used.notices
    assert "has no chat template: the default one (role names as plain text) is used and saved; set model.chat_template" in notice


def test_a_tokenizer_with_a_template_or_a_recipe_with_one_is_not_noted(tokenizer, in_use, tmp_path):
    assert (in_use().report.origin, in_use().notices) == ("the tokenizer's own", ())
    assert (in_use("default").report.origin, in_use("default").notices) == ("default", ())
    (tmp_path / "my.jinja").write_text(TURNS + ASK)
    used = in_use(str(tmp_path / "my.jinja"))
    assert (used.report.origin, used.report.sha256, used.notices) == ("file", template_digest(TURNS + ASK), ())


def test_the_default_template_of_a_new_model_needs_no_notice(tmp_path):
    used = template_in_use(chain_of({"source": "scratch"}, tmp_path))
    assert (used.report.origin, used.notices) == ("default", ())


def test_turn_tokens_that_the_template_does_not_use_are_named_with_the_remedy(tokenizer, in_use):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    tokenizer.chat_template = None
    default, tokens = in_use().notices
    assert "the default one" in default
    assert "turn tokens that the chat template does not use (<start_of_turn>)" in tokens
    assert "set model.chat_template to gemma" in tokens
    assert in_use("gemma").notices == ()


def test_a_turn_token_that_serves_as_bos_alone_is_not_used(tokenizer, in_use):
    """As SmolLM2's tokenizer has it."""
    tokenizer.add_special_tokens({"bos_token": "<|im_start|>"})
    [notice] = in_use("default").notices
    assert "does not use (<|im_start|>)" in notice
    assert in_use("chatml").notices == ()


def test_turn_tokens_that_are_no_tokens_are_named(in_use):
    [notice] = in_use("chatml").notices
    assert "writes <|im_start|>, for which the tokenizer has no token" in notice
