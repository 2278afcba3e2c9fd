"""What evaluation reads of a finished chain: its held-out rows, and scores of them that alignment has computed already."""

from __future__ import annotations

import functools

import polars as pl

from posttrain.checkpoints.load import load_tokenizer
from posttrain.data.encode import accepted
from posttrain.evaluation.asked import HeldOut
from posttrain.evaluation.row_scores import Known
from posttrain.pipeline.chain import Chain
from posttrain.scoring.known_scores import find_known
from schemas.data import CONTRACTS


def held_out(chain: Chain) -> HeldOut:
    """The held-out rows of a run whose conversations the candidate's chat template accepts."""
    tokenizer = load_tokenizer(chain.policy_before("register"))

    def rows(stage: str, output: str) -> pl.DataFrame | None:
        present = stage in chain.recipe.stages and output in chain.stored(stage).result.outputs
        return pl.read_parquet(chain.output(stage, output), glob=False).filter(split="holdout") if present else None

    given = {name: rows("validate", name) for name in CONTRACTS}
    chats = {name: None if table is None else accepted(tokenizer, table) for name, table in given.items()}
    before, after = (sum(table.height for table in each.values() if table is not None) for each in (given, chats))
    return HeldOut(rows("filter", "kept"), **chats, refused=before - after)


def known_scores(chain: Chain) -> Known | None:
    """Scores of held-out pairs that alignment computed of its reference, which evaluation then does not compute again."""
    if "align" not in chain.recipe.stages or "reference" not in chain.stored("align").result.outputs:
        return None
    return functools.partial(find_known, chain.output("align", "reference"))
