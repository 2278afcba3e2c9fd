"""Which rows stand for all: a share of every source, whatever the order of the files."""

from __future__ import annotations

import numpy as np
import polars as pl

from posttrain.data.choose import by_source, held_out_pieces, representative, stratified
from posttrain.data.packing import Example


def table(**sizes: int) -> pl.DataFrame:
    """Prompts of some sources, one source after the other."""
    rows = [(f"{source}.jsonl", f"{source} asks {i}") for source, size in sizes.items() for i in range(size)]
    prompts = [[{"role": "user", "content": text}] for _, text in rows]
    return pl.DataFrame({"source": [source for source, _ in rows], "prompt": prompts})


def test_sources_have_their_shares_and_a_small_one_has_a_row():
    """32 of 82 and 81 are 16 each; 20 of 150, 45 and 5 are 15, 4 and 1."""
    assert by_source(representative(table(a=82, b=81), 32)) == {"a.jsonl": 16, "b.jsonl": 16}
    assert by_source(representative(table(a=150, b=45, c=5), 20)) == {"a.jsonl": 14, "b.jsonl": 5, "c.jsonl": 1}


def test_the_order_of_rows_decides_nothing_and_is_kept():
    rows = table(a=50, b=50)
    turned = representative(rows.reverse(), 10)
    assert turned.reverse().equals(representative(rows, 10))
    places = [rows["prompt"].to_list().index(prompt) for prompt in representative(rows, 10)["prompt"].to_list()]
    assert places == sorted(places)
    assert places != list(range(10))


def test_rows_of_one_source_are_spread_over_it():
    """64 of 640: as many of the second half as of the first, within three standard deviations of 4."""
    chosen = stratified([f"row {i}".encode() for i in range(640)], ["a"] * 640, 64)
    assert 20 <= sum(row >= 320 for row in chosen) <= 44


def test_no_more_rows_than_there_are():
    assert representative(table(a=3), 8).equals(table(a=3))
    assert representative(table(a=3), 8).drop("source").equals(representative(table(a=3).drop("source"), 8))


def test_fewer_rows_than_sources_are_of_different_ones():
    assert sorted(by_source(representative(table(a=9, b=9, c=9), 2)).values()) == [1, 1]


def test_a_long_document_gives_no_more_than_the_share_of_its_source():
    """A book of 90 pieces and ten notes of one: 20 pieces of both sources by their sizes, 18 and 2."""
    documents = pl.DataFrame({"source": ["book", *["notes"] * 10], "text": ["x" * 90, *"abcdefghij"]})

    def encode(texts: list[str]) -> list[Example]:
        return [Example(np.array([ord(c)], np.int32), (np.array([i], np.int32),)) for text in texts for i, c in enumerate(text)]

    examples, read = held_out_pieces(documents, 20, encode)
    assert read.height == 11
    assert sum(chr(int(example.prompt[0])) == "x" for example in examples) == 18
