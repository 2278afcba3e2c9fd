"""Which chat template a run uses, and what it does to the rows: found before anything trains, and said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from transformers import PreTrainedTokenizerBase

from posttrain.checkpoints.load import tokenizer_as_found
from posttrain.data.boundaries import MAX_SHIFTED_BOUNDARIES
from posttrain.data.chat_templates import BUILT_IN, of_a_new_model, template_digest
from posttrain.data.encode import Conversation, accepts, count_shifted
from posttrain.data.rendering import rendered
from posttrain.data.tokenizer import broken_template, prepare_tokenizer, refuses, some_chat, template_of
from posttrain.models.policy import Policy
from posttrain.pipeline.chain import Chain
from schemas.data import Checks
from schemas.errors import Refusal
from schemas.model import ScratchModel
from schemas.results import TemplateReport

# What opens a turn in the formats of public models, and the built-in template that writes it.
TURN_TOKENS = {
    "<|im_start|>": "chatml",
    "<|start_header_id|>": "llama3",
    "<start_of_turn>": "gemma",
    "[INST]": "mistral",
    "<|user|>": "zephyr",
}
SAMPLED = 256  # rows of a table whose tokens are compared, about
# Of the sampled rows: far from what chance can make of the limit that encoding has for all rows.
SHIFTED_FOR_SURE = 5 * MAX_SHIFTED_BOUNDARIES
COMPLETIONS = ("completion", "chosen", "rejected")


@dataclass(frozen=True)
class InUse:
    """The template that a run's models are saved with, and what a person should know about it, in sentences."""

    report: TemplateReport
    notices: tuple[str, ...] = ()


def template_in_use(chain: Chain) -> InUse:
    """The template of a recipe's model, with what can be said of it from the tokenizer alone."""
    if isinstance(chain.model, ScratchModel):
        return InUse(of_a_new_model())
    return _read(chain.source, chain.model.chat_template)[1]


def _read(policy: Policy, given: str | None) -> tuple[PreTrainedTokenizerBase, InUse]:
    """The tokenizer as the run uses it, and its template; `given` is what the recipe says of it."""
    found = tokenizer_as_found(policy)
    has_none = given is None and template_of(found) is None
    tokenizer = prepare_tokenizer(found, policy.chat_template)
    template, notices = str(template_of(tokenizer)), []
    if has_none:
        notices.append(
            f"the tokenizer of {policy.gguf or policy.base} has no chat template: the default one (role names as plain text) is "
            "used and saved; set model.chat_template if the model was trained with another"
        )
    origin = given if given in BUILT_IN else "file" if given else "default" if has_none else "the tokenizer's own"
    report = TemplateReport(origin=str(origin), sha256=template_digest(template))
    return tokenizer, InUse(report, (*notices, *_turn_tokens(tokenizer, template)))


def _turn_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> list[str]:
    """Warnings: turn tokens that the tokenizer holds and the template leaves alone, or the other way round."""
    vocabulary = tokenizer.get_vocab()
    # SmolLM2's BOS is <|im_start|>: at the start of a chat it says nothing of turns.
    written = template + some_chat(tokenizer).removeprefix(str(tokenizer.bos_token))
    held = [token for token in TURN_TOKENS if token in vocabulary]
    used = [token for token in TURN_TOKENS if token in written]
    warnings = []
    if held and not set(held) & set(used):
        names = " or ".join(TURN_TOKENS[token] for token in held)
        warnings.append(
            f"the tokenizer holds turn tokens that the chat template does not use ({', '.join(held)}): if the model was trained "
            f"with them, set model.chat_template to {names}, or to the model's own as a file"
        )
    if missing := [token for token in used if token not in vocabulary]:
        warnings.append(
            f"the chat template writes {', '.join(missing)}, for which the tokenizer has no token: the model reads it as text"
        )
    return warnings


def check_template(chain: Chain, tables: Mapping[str, pl.LazyFrame], note: Callable[[str], None]) -> None:
    """Refuse a template that would be trained on wrongly, and note what else a person should know.

    Args:
        chain: of a recipe whose model is not from scratch.
        tables: rows in normal form by data set, `instructions` and `preferences`.
        note: is told each sentence.

    Raises:
        Refusal: when the template cannot be rendered, refuses more rows than `data.checks.max_drop_rate` allows, writes the
            header of a turn into the answer, or when prompts are not the start of prompt and answer.
    """
    tokenizer, used = _read(chain.source, getattr(chain.model, "chat_template", None))
    for sentence in used.notices:
        note(sentence)
    for name, table in tables.items():
        for sentence in check_rows(tokenizer, table, f"data.{name}", chain.recipe.data.checks):
            note(sentence)


def check_rows(tokenizer: PreTrainedTokenizerBase, table: pl.LazyFrame, field: str, checks: Checks) -> list[str]:
    """What the template does to the rows of a table, in sentences; one row of every sequence of roles is rendered.

    Raises:
        Refusal: as of `check_template`.
    """
    refused: list[tuple[int, str]] = []
    leads: set[str] = set()
    each = shapes(table)
    for row in each.iter_rows(named=True):
        try:
            leads |= _leads(tokenizer, row, field)
        except Refusal:
            raise
        except Exception as error:  # a template is a program, and may fail in any way
            if not refuses(error):
                raise broken_template(error) from error
            refused.append((row["rows"], f"{row['shape']}: {error}"))
    total = int(each["rows"].sum())
    notices = _refused_rows(refused, total, field, checks)
    _refuse_shifted(tokenizer, table.gather_every(max(1, total // SAMPLED)).collect(), field)
    trained = "which is trained on as a part of it"
    return [*notices, *(f"{field}: the template writes {lead!r} before each answer, {trained}" for lead in sorted(leads))]


def shapes(table: pl.LazyFrame) -> pl.DataFrame:
    """The first row of each sequence of roles in `shape`, with how many rows have it in `rows`."""
    columns = [name for name in ("prompt", *COMPLETIONS) if name in table.collect_schema()]
    roles = [pl.col(name).list.eval(pl.element().struct.field("role")).list.join(", ") for name in columns if name != "rejected"]
    shaped = table.select(*columns, shape=pl.concat_str(roles, separator=", "))
    return shaped.group_by("shape", maintain_order=True).agg(pl.len().alias("rows"), pl.col(columns).first()).collect()


def _leads(tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], field: str) -> set[str]:
    """What the template writes between the prompt and the answers of a row beside blanks; empty for most templates.

    Raises:
        Refusal: when it is the header of the turn, since the template does not heed `add_generation_prompt`.
    """
    leads: set[str] = set()
    bare, asked = _prompts(tokenizer, row["prompt"])
    for answer in (row[name] for name in COMPLETIONS if row.get(name)):
        whole = rendered(tokenizer, row["prompt"] + answer)
        if not whole.startswith(asked):
            continue  # `_refuse_shifted` counts these
        at = whole.find(answer[0]["content"].strip(), len(asked))
        lead = whole[len(asked) : at].strip() if at > 0 else ""
        if lead and bare == asked:
            raise Refusal(
                where="model.chat_template",
                found=f"a template without a generation prompt: {lead!r} stands before the answers of "
                f"{field}, and the model would be trained to write it",
                allowed="a template that ends a prompt with it",
                remedy="write it at the end where add_generation_prompt is true, or name another template",
            )
        leads |= {lead} - {""}
    return leads


def _refused_rows(refused: list[tuple[int, str]], rows: int, field: str, checks: Checks) -> list[str]:
    """A notice of the rows that the template refuses; a refusal where they are too many."""
    if not refused:
        return []
    count, reasons = sum(n for n, _ in refused), "; ".join(sorted({reason for _, reason in refused}))
    found = f"{count:,} of {rows:,} rows ({count / rows:.0%}) that the chat template refuses ({reasons})"
    if count == rows or (count > checks.max_drop_rate * rows and "max_drop_rate" not in checks.waive):
        raise Refusal(
            where=field,
            found=found,
            allowed=f"at most {checks.max_drop_rate:.0%} (data.checks.max_drop_rate)",
            remedy="set model.chat_template to a template that takes them, or change the rows",
        )
    return [f"{field}: {found}: training and evaluation leave them out"]


def _refuse_shifted(tokenizer: PreTrainedTokenizerBase, sample: pl.DataFrame, field: str) -> None:
    """Refuse a template under which most likely more prompts than encoding allows are not the start of prompt + answer."""
    shifted, rendered = count_shifted(sample, tokenizer)
    if shifted <= SHIFTED_FOR_SURE * rendered:
        return
    bare, asked = _prompts(tokenizer, next(prompt for prompt in sample["prompt"].to_list() if accepts(tokenizer, prompt)))
    raise Refusal(
        where="model.chat_template",
        found=f"a template whose prompts end with {asked.removeprefix(bare)!r}, on which the answers of {shifted} of {rendered} "
        f"sampled rows of {field} do not follow",
        allowed="prompts that are the start of prompt + answer",
        remedy="name a template that ends prompts where answers start: without an opened <think>, say",
    )


def _prompts(tokenizer: PreTrainedTokenizerBase, prompt: Conversation) -> tuple[str, str]:
    """A prompt without and with what asks for an answer."""
    return rendered(tokenizer, prompt), rendered(tokenizer, prompt, generation_prompt=True)
