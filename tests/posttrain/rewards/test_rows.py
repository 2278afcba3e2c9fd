"""What a reward sees of a sample."""

from __future__ import annotations

import numpy as np
import polars as pl

from posttrain.rewards.rows import columns_of, sample_rows

ASKED = [{"role": "user", "content": "2 + 2?"}]


def test_columns_of_the_data_come_with_their_own_names_and_types():
    table = pl.DataFrame(
        {
            "prompt": [ASKED, ASKED],
            "completion": [[{"role": "assistant", "content": "4"}]] * 2,
            "source": ["a.jsonl"] * 2,
            "row": [1, 2],
            "split": ["train"] * 2,
            "extra": ['{"answer": 4, "row": "own", "tags": ["x"]}', None],
        }
    )
    answered, plain = columns_of(table)
    assert (answered["answer"], answered["tags"], answered["row"], answered["file"]) == (4, ["x"], "own", "a.jsonl")
    assert set(plain) == {"completion", "file", "row"}


def test_a_sample_has_its_conversation_counts_and_end_and_loses_no_column():
    tokens = [np.arange(3), np.arange(5)]
    columns = [{"answer": 4}, {"ended": "a column of the data"}]
    one, two = sample_rows(columns, [ASKED, ASKED], tokens, tokens[::-1], [True, False])
    assert one == {"answer": 4, "conversation": ASKED, "prompt_tokens": 3, "response_tokens": 5, "ended": True}
    assert (two["ended"], two["data_ended"], two["response_tokens"]) == (False, "a column of the data", 3)
