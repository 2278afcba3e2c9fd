"""From clean rows to token examples: chat template, prompt boundary, EOS, truncation. No row is lost without a reason."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from posttrain.data.boundaries import refuse_double_bos, refuse_shifted
from posttrain.data.packing import Example, Tokens
from posttrain.data.rendering import rendered
from posttrain.data.sides import Mask, of_branches, side_masks
from posttrain.data.tokenizer import added_tokens, writes_bos
from posttrain.data.turns import Span, common_prefix, spans_of, with_turns
from schemas.training import Overlong, TrainOn

Conversation = list[dict[str, Any]]


@dataclass
class Encoded:
    """Examples, and the rows of the input table that were left out with their reason: together, all its rows."""

    examples: list[Example] = field(default_factory=list)
    left_out: list[tuple[int, str]] = field(default_factory=list)
    shifted: int = 0
    """Rows whose prompt is no token prefix of prompt + completion, and was shortened to the part that is."""
    prompts_cut: int = 0
    """Examples whose prompt lost tokens on its left."""
    completions_cut: int = 0
    """Examples with a completion that lost its end."""
    turns: int = 0
    """Earlier answers that are trained on beside the last one."""
    turns_unlike: int = 0
    """Earlier answers that are not, since the template writes them otherwise once the conversation goes on."""

    def count(self, row: int, example: Example | str, prompt: int, boundary: int, after: int, answered: int) -> None:
        """One row's example, or why there is none, with the tokens of its whole prompt, of that before the boundary, of what an
        encoder's prompt ends with, and of all answers."""
        self.shifted += boundary < prompt
        if isinstance(example, str):
            self.left_out.append((row, example))
        else:
            self.prompts_cut += len(example.prompt) < boundary + after
            self.completions_cut += sum(map(len, example.branches)) < answered

    def kept(self, table: pl.DataFrame) -> pl.DataFrame:
        """The rows of the examples, in their order."""
        left_out = {row for row, _ in self.left_out}
        return table[[row for row in range(table.height) if row not in left_out]]

    def quarantine(self, table: pl.DataFrame) -> pl.DataFrame:
        """The rows left out, by the file and row that `table` names."""
        places = table[[row for row, _ in self.left_out]].select("source", "row")
        return places.with_columns(reason=pl.Series([reason for _, reason in self.left_out], dtype=pl.String))

    def summary(self) -> str:
        """The counts as a sentence."""
        rows = len(self.examples) + len(self.left_out)
        return (
            f"{rows:,} rows: {len(self.examples):,} examples, {len(self.left_out):,} left out; "
            f"{self.prompts_cut:,} prompts and {self.completions_cut:,} completions cut, {self.shifted:,} boundaries moved"
            f"{self._of_turns()}"
        )

    def _of_turns(self) -> str:
        if not self.turns and not self.turns_unlike:
            return ""
        trained = f"; {self.turns:,} earlier answers trained on"
        unlike = f", {self.turns_unlike:,} not, which the template writes otherwise once the conversation goes on"
        return trained + (unlike if self.turns_unlike else "")


@dataclass(frozen=True)
class Rules:
    """How the tokens of a row become an example."""

    max_length: int
    truncate: bool  # cut a completion that does not fit, rather than leave its row out
    bos: int | None
    pad: int | None  # None where EOS is the padding token too
    suffix: int  # tokens at the end of an encoder's prompt

    def head(self, prompt: list[int]) -> int:
        """Tokens at the start of a prompt that are never cut: models attend to BOS as to nothing else."""
        return int(prompt[0] == self.bos)

    def least(self, prompt: list[int]) -> int:
        """Length below which no prompt is cut: BOS, one token of the text, the encoder's EOS."""
        return min(len(prompt), self.head(prompt) + 1 + self.suffix)


def encode_prompts(
    conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase, encoder_decoder: bool = False,
    room: int | None = None,
) -> list[Tokens]:  # fmt: skip
    """Prompts as a model reads them before it answers; `encoder_decoder` as in `encode_conversations`.

    What is longer than `room` tokens is cut from the left.
    """
    texts = [_text(tokenizer, conversation, generation_prompt=True) for conversation in conversations]
    after = added_tokens(tokenizer)[1] if encoder_decoder else []
    bos: Any = tokenizer.bos_token_id
    prompts = [[*ids, *after] for ids in _tokens(tokenizer, texts)]
    return [cut_left(prompt, len(prompt) if room is None else room, bos) for prompt in prompts]


def accepts(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> bool:
    """Whether the template renders a prompt; encoding leaves out the rows of those that it refuses."""
    try:
        return bool(_text(tokenizer, conversation, generation_prompt=True))
    except TemplateError:
        return False


def accepted(tokenizer: PreTrainedTokenizerBase, table: pl.DataFrame) -> pl.DataFrame:
    """The rows whose prompts the template renders: those that a policy can be asked."""
    return table.filter(pl.Series([accepts(tokenizer, prompt) for prompt in table["prompt"].to_list()], dtype=pl.Boolean))


def count_shifted(table: pl.DataFrame, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Rows whose prompt is no token prefix of prompt + completion, and rows that the template renders."""
    tokenised = _tokenise(table, tokenizer, Encoded())
    shifted = sum(any(whole[: len(prompt)] != prompt for whole in wholes) for prompt, *wholes in tokenised.values())
    return shifted, len(tokenised)


def encode_response(conversation: Conversation, response: str, tokenizer: PreTrainedTokenizerBase, limit: int) -> Example:
    """One prompt with one response, ended by EOS, as `encode_conversations` encodes them; what is beyond `limit` is cut.

    Every response gives an example, an empty one too.
    """
    whole = [*conversation, {"role": "assistant", "content": response}]
    texts = [_text(tokenizer, conversation, generation_prompt=True), _text(tokenizer, whole, generation_prompt=False)]
    prompt, ids = _tokens(tokenizer, texts)
    boundary = max(1, common_prefix(prompt, ids))
    rules = _rules(tokenizer, limit, "truncate", 0)
    branch = np.asarray(_with_eos(ids[boundary:], tokenizer), np.int32)[: limit - rules.least(prompt[:boundary])]
    return Example(cut_left(prompt[:boundary], limit - len(branch), rules.bos), (branch,))


def encode_conversations(
    table: pl.DataFrame,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    field_name: str,
    overlong: Overlong = "quarantine",
    encoder_decoder: bool = False,
    train_on: TrainOn = "last",
) -> Encoded:
    """Rows with `prompt` and one or more completion columns (`completion`, or `chosen` and `rejected`) to examples.

    A completion ends with EOS, which is trained on; padding never is. Where prompt and completion are too long together, the
    prompt is cut from the left, down to BOS and its last token. A row whose completion does not fit even then is left out, or
    the completion is cut and has no EOS, since it does not end there.

    Args:
        table: clean rows; every cell is a list of {role, content}.
        tokenizer: as `prepare_tokenizer` leaves it.
        max_length: longest prompt with one completion in tokens.
        field_name: recipe field of the data, for messages.
        overlong: what happens to a row whose completion does not fit.
        encoder_decoder: end prompts with what the tokenizer itself puts after a text (EOS for T5), which encoders expect.
        train_on: `all` for the answers in the prompt of a `completion` too, but for an encoder, which reads the prompt.

    Raises:
        Refusal: when the template writes two BOS tokens, or when the prompt is not a token prefix in more than 1% of rows.
    """
    encoded = Encoded()
    tokenised = _tokenise(table, tokenizer, encoded)
    refuse_double_bos(tokenizer, [prompt for prompt, *_ in tokenised.values()], field_name)
    after = added_tokens(tokenizer)[1] if encoder_decoder else []
    rules = _rules(tokenizer, max_length, overlong, len(after))
    spans = _earlier(table, tokenizer, tokenised) if train_on == "all" and not encoder_decoder else {}
    masks = side_masks(table, _answers(table), tokenizer, tokenised)
    for row, (prompt, *wholes) in tokenised.items():
        boundary = min(common_prefix(prompt, whole) for whole in wholes)
        branches = [_with_eos(whole[boundary:], tokenizer) for whole in wholes]
        example = _example([*prompt[:boundary], *after], branches, boundary, rules, masks.get(row))
        encoded.count(row, example, len(prompt), boundary, len(after), sum(map(len, branches)))
        if not isinstance(example, str):
            turns = spans.get(row)
            kept = example if turns is None else _with_turns(example, boundary, turns, rules.head(prompt) > 0, encoded)
            encoded.examples.append(kept)
    refuse_shifted(encoded.shifted, len(tokenised), field_name)
    encoded.left_out.sort()
    assert len(encoded.examples) + len(encoded.left_out) == table.height
    return encoded


def _example(
    prompt: list[int], branches: list[list[int]], boundary: int, rules: Rules, masks: list[Mask] | str | None
) -> Example | str:  # fmt: skip
    """The example of a row whose answers begin at the boundary of its whole conversations, or why there is none."""
    if isinstance(masks, str):
        return masks
    example = fit(prompt, branches, rules) if boundary else "the prompt has no token"
    if isinstance(example, str) or masks is None:
        return example
    kept = zip(of_branches(masks, boundary, branches), example.branches, strict=True)
    return replace(example, trained=np.concatenate([mask[: len(branch)] for mask, branch in kept]))


def _with_turns(example: Example, boundary: int, spans: list[Span | None], keeps_first: bool, encoded: Encoded) -> Example:
    """With the earlier answers of the conversation, which are counted."""
    alike = [span for span in spans if span]
    encoded.turns, encoded.turns_unlike = encoded.turns + len(alike), encoded.turns_unlike + len(spans) - len(alike)
    return with_turns(example, boundary, alike, keeps_first)


def _answers(table: pl.DataFrame) -> list[str]:
    """The columns of answers that a table has."""
    return [name for name in ("completion", "chosen", "rejected") if name in table.columns]


def _tokenise(table: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, encoded: Encoded) -> dict[int, list[list[int]]]:
    """Token ids of each row's prompt, and of the prompt with each completion; what cannot be rendered as meant is left out."""
    columns = _answers(table)
    texts: dict[int, list[str]] = {}
    bos = str(tokenizer.bos_token) if writes_bos(tokenizer) else None
    for row, (prompt, *completions) in enumerate(table.select("prompt", *columns).iter_rows()):
        messages = itertools.chain(prompt, *completions)
        if bos and any(str(message["content"]).lstrip().startswith(bos) for message in messages):
            encoded.left_out.append((row, f"a message starts with {bos}, which the chat template writes already"))
            continue
        try:
            wholes = [_text(tokenizer, prompt + completion, generation_prompt=False) for completion in completions]
            texts[row] = [_text(tokenizer, prompt, generation_prompt=True), *wholes]
        except TemplateError as error:
            encoded.left_out.append((row, f"the chat template refuses the conversation: {error}"))
    ids = iter(_tokens(tokenizer, [text for rendered in texts.values() for text in rendered]))
    return {row: [next(ids) for _ in rendered] for row, rendered in texts.items()}


def _earlier(
    table: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, tokenised: dict[int, list[list[int]]]
) -> dict[int, list[Span | None]]:
    """The earlier answers of conversations; none of pairs, whose shared history is their prompt."""
    if "completion" not in table.columns:
        return {}
    rows = {row: both for row, both in enumerate(table.select("prompt", "completion").iter_rows()) if row in tokenised}
    return spans_of(tokenizer, rows, {row: tokenised[row][1] for row in rows})


def _text(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, generation_prompt: bool) -> str:
    return rendered(tokenizer, conversation, generation_prompt)


def _tokens(tokenizer: PreTrainedTokenizerBase, rendered: list[str]) -> list[list[int]]:
    """Token ids of rendered chats, in which the template wrote all special tokens."""
    ids: list[list[int]] = tokenizer(rendered, add_special_tokens=False)["input_ids"] if rendered else []
    return ids


def _rules(tokenizer: PreTrainedTokenizerBase, max_length: int, overlong: Overlong, suffix: int) -> Rules:
    bos: Any = tokenizer.bos_token_id
    pad: Any = tokenizer.pad_token_id
    return Rules(max_length, overlong == "truncate", bos, None if pad == tokenizer.eos_token_id else pad, suffix)


def _with_eos(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The completion, ended by the EOS token that teaches the model to stop; blanks after the template's EOS are dropped."""
    eos: Any = tokenizer.eos_token_id
    end = len(tokens) - tokens[::-1].index(eos) if eos in tokens else 0
    return tokens[:end] if end and not str(tokenizer.decode(tokens[end:])).strip() else [*tokens, eos]


def fit(prompt: list[int], branches: list[list[int]], rules: Rules) -> Example | str:
    """The example of a row, or why there is none."""
    longest, room = max(map(len, branches)), rules.max_length - rules.least(prompt)
    if min(map(len, branches)) == 1:
        return "a completion has no token but EOS"
    if any(rules.pad in branch for branch in branches):
        return "a completion contains the padding token"
    if longest > room and not rules.truncate:
        return f"a completion of {longest} tokens does not fit max_length {rules.max_length} with a prompt"
    kept = tuple(np.asarray(branch[:room], np.int32) for branch in branches)
    if len(kept) == 2 and np.array_equal(*kept):
        return "chosen and rejected are equal as tokens" + (f" once cut to {room}" if longest > room else "")
    return Example(cut_left(prompt, rules.max_length - max(map(len, kept)), rules.bos), kept)


def cut_left(prompt: Sequence[int] | Tokens, room: int, bos: int | None) -> Tokens:
    """The last `room` tokens of a prompt, the first of them BOS if it was."""
    ids = np.asarray(prompt, np.int32)
    if len(ids) > room:
        head = int(bos is not None and ids[0] == bos)
        ids = np.concatenate([ids[:head], ids[len(ids) - room + head :]])
    return ids
