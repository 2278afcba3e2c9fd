"""How a batch of examples is laid out for a model, and where in its output the hidden states of the target tokens are.

packed           many examples in a row, a pair sharing its prompt: the fastest, exact where the model honours an explicit mask
padded           one row per branch
encoder_decoder  the prompt goes through the encoder once, its branches are rows of the decoder
soft_prompt      one row per branch, after the virtual tokens of a soft prompt, which packing would show to one sequence alone
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from posttrain.data.packing import PADDING, Example, in_one_row, pack, padding_to_common_width
from posttrain.models.blocks import core
from posttrain.models.routing import balance, with_routing
from posttrain.peft.soft_prompts import prompted
from posttrain.scoring.attention_mask import attention_mask
from posttrain.scoring.segment_attention import SEGMENTS, segments_of

NO_MASK = torch.ones(1, 1, 1, 1, dtype=torch.bool)  # four dimensions: transformers takes it as it is and makes none of its own
Embed = Callable[[Any, Tensor, Tensor], Tensor]
"""Input embeddings [R, C, H] of (model, token ids [R, C], length of the sequence of each token [R, C]); None: the model's own."""


@dataclass(frozen=True)
class Located:
    """N target tokens in B branches, and the hidden state that predicts each."""

    hidden: Tensor  # [N, H]
    targets: Tensor  # [N]
    branch: Tensor  # [N], ascending
    branches: int
    balance: Tensor | None = None  # auxiliary loss of a mixture of experts, see `routing.py`


class Layout(Protocol):
    """Runs the body of a model over examples."""

    def __call__(self, model: Any, examples: Sequence[Example], device: torch.device, embed: Embed | None) -> Located:
        """The hidden states of every completion token, branches in the order of the examples."""


def packed(
    model: Any, examples: Sequence[Example], device: torch.device, embed: Embed | None, width: int | None = None
) -> Located:
    """Rows of `width` tokens; by default of the width that costs this model least."""
    if model.config._attn_implementation == SEGMENTS:
        padding = padding_to_common_width(sum(example.length for example in examples))
        batch = in_one_row(examples, padding).to(device)
        visible: dict[str, Any] = {"attention_mask": NO_MASK.to(device), "segments": segments_of(examples, padding)}
    else:
        batch = pack(examples, width, token_cost=6 * model.config.get_text_config().hidden_size).to(device)
        visible = {"attention_mask": attention_mask(model.config, batch)}
    lengths = torch.tensor([*(example.length for example in examples), 1], device=device)[batch.owner]  # padding is example -1
    out = model.base_model(
        **_inputs(model, batch.input_ids, lengths, embed),
        **visible,
        position_ids=batch.position_ids,
        use_cache=False,  # with a cache transformers lets packed sequences see each other
        **with_routing(model),
    )
    hidden = out.last_hidden_state.flatten(0, 1)[batch.at]
    return Located(hidden, batch.targets, batch.branch, batch.branches, balance(model, out, batch.owner != PADDING))


def padded(model: Any, examples: Sequence[Example], device: torch.device, embed: Embed | None) -> Located:
    """Rows `prompt · branch`, padded on the right."""
    rows = PaddedRows.of(examples, device)
    lengths = rows.attended.sum(1, keepdim=True).expand_as(rows.ids)
    out = model.base_model(
        **_inputs(model, rows.ids, lengths, embed), attention_mask=rows.attended.long(), use_cache=False, **with_routing(model)
    )
    hidden, more = out.last_hidden_state[:, :-1], balance(model, out, rows.attended)
    return Located(hidden[rows.scored], rows.ids[:, 1:][rows.scored], rows.branch, len(rows.ids), more)


def encoder_decoder(model: Any, examples: Sequence[Example], device: torch.device, embed: Embed | None) -> Located:
    """The decoder starts from its start token and predicts the branch; the encoder's output is shared by a prompt's branches."""
    prompts, seen = pad_rows([e.prompt for e in examples], device)
    lengths = seen.sum(1, keepdim=True).expand_as(prompts)
    encoded = model.get_encoder()(**_inputs(model, prompts, lengths, embed), attention_mask=seen.long()).last_hidden_state
    targets, scored = pad_rows([branch for e in examples for branch in e.branches], device)
    owner = torch.tensor([i for i, e in enumerate(examples) for _ in e.branches], device=device)
    hidden = model.get_decoder()(
        input_ids=shifted(targets, model.config.decoder_start_token_id),
        attention_mask=scored.long(),
        encoder_hidden_states=encoded[owner],
        encoder_attention_mask=seen[owner].long(),
        use_cache=False,
    ).last_hidden_state
    return Located(hidden[scored], targets[scored], scored.nonzero()[:, 0], len(targets))


def soft_prompt(model: Any, examples: Sequence[Example], device: torch.device, embed: Embed | None) -> Located:
    """Rows after the virtual tokens of `model`, a peft model, whose positions are cut off the output."""
    inner = core(model)
    if not inner.config.is_encoder_decoder:
        rows = PaddedRows.of(examples, device)
        at = prompted(model, rows.ids, rows.attended)
        hidden = inner.base_model(**at.inputs).last_hidden_state[:, at.skip : -1]
        return Located(hidden[rows.scored], rows.ids[:, 1:][rows.scored], rows.branch, len(rows.ids))
    prompts, seen = pad_rows([e.prompt for e in examples for _ in e.branches], device)
    targets, scored = pad_rows([branch for e in examples for branch in e.branches], device)
    at = prompted(model, prompts, seen, scored)
    encoded = inner.get_encoder()(**{name: at.inputs[name] for name in at.inputs if name != "use_cache"}).last_hidden_state
    decoder = {"attention_mask" if name == "decoder_attention_mask" else name: value for name, value in at.decoder.items()}
    hidden = inner.get_decoder()(
        input_ids=shifted(targets, inner.config.decoder_start_token_id),
        encoder_hidden_states=encoded,
        encoder_attention_mask=at.inputs["attention_mask"],
        **{"use_cache": False} | decoder,
    ).last_hidden_state
    return Located(hidden[scored], targets[scored], scored.nonzero()[:, 0], len(targets))


def targets_of(examples: Sequence[Example], device: torch.device) -> Tensor | None:
    """Which tokens of all branches, in their order, are targets [tokens]; None where all are."""
    if all(example.trained is None for example in examples):
        return None
    masks = [np.ones(e.targets, np.bool_) if e.trained is None else e.trained for e in examples]
    return torch.from_numpy(np.concatenate(masks)).to(device)


def only_targets(at: Located, examples: Sequence[Example]) -> Located:
    """Without the tokens of branches that are not trained on."""
    kept = targets_of(examples, at.targets.device)
    return at if kept is None else replace(at, hidden=at.hidden[kept], targets=at.targets[kept], branch=at.branch[kept])


LAYOUTS: dict[str, Layout] = {"packed": packed, "padded": padded, "encoder_decoder": encoder_decoder, "soft_prompt": soft_prompt}


@dataclass(frozen=True)
class PaddedRows:
    """One row `prompt · branch` per branch, padded on the right."""

    ids: Tensor  # [B, T]
    attended: Tensor  # [B, T]
    scored: Tensor  # [B, T-1], whether the token after a position is a target
    branch: Tensor  # [N]

    @classmethod
    def of(cls, examples: Sequence[Example], device: torch.device) -> PaddedRows:
        """The rows of these examples."""
        pairs = [(e.prompt, branch) for e in examples for branch in e.branches]
        ids, attended = pad_rows([np.concatenate(pair) for pair in pairs], device)
        prompts = torch.tensor([len(prompt) for prompt, _ in pairs], device=device)
        after_prompt = torch.arange(ids.shape[1], device=device) >= prompts[:, None]
        scored = (after_prompt & attended)[:, 1:]
        return cls(ids, attended, scored, scored.nonzero()[:, 0])


def shifted(targets: Tensor, start: int) -> Tensor:
    """Decoder inputs [B, T]: the start token, then every target but the last."""
    return torch.cat([torch.full_like(targets[:, :1], start), targets[:, :-1]], 1)


def pad_rows(rows: Sequence[np.ndarray], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids [B, T] padded on the right with 0, and which of them are tokens: known by length, since padding may equal EOS."""
    ids = pad_sequence([torch.from_numpy(row.astype(np.int64)) for row in rows], batch_first=True).to(device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(ids.shape[1], device=device) < lengths[:, None]


def _inputs(model: Any, ids: Tensor, lengths: Tensor, embed: Embed | None) -> dict[str, Tensor]:
    return {"input_ids": ids} if embed is None else {"inputs_embeds": embed(model, ids, lengths)}
