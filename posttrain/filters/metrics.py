"""What is measured of a document: one column per field of `schemas.data.FilterRules`, of the same name.

Definitions follow Gopher (Rae et al. 2021, arXiv 2112.11446, appendix A1.1, tables A1 and A2). Where the paper leaves a choice:

- a word is a maximal run of characters that are not Unicode white space, punctuation included;
- a letter is any Unicode letter;
- an ellipsis is `…` or three or more full stops;
- a line is what stands between line breaks, a paragraph what stands between empty lines; both stripped, empty ones left out;
- a bullet is one of `• ‣ ◦ ▪ ● ·`, or `-` or `*` before white space;
- a stop word counts in any case, between word boundaries: `that's` has `that`;
- every occurrence of a line after its first repeats it; characters are shares of all characters of the document.

A share of nothing is 0.
"""

from __future__ import annotations

import polars as pl

from schemas.data import FilterRules

METRICS = tuple(FilterRules.model_fields)
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLET = r"^(?:[•‣◦▪●·]|[-*]\s)"
ELLIPSIS = r"\.{3,}|…"
# Unicode White_Space without the plain space. Folding them first lets a plain split, much faster than `\S+`, find the words.
SPACES = list("\t\n\v\f\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") + [chr(code) for code in range(0x2000, 0x200B)]


def annotate(text: pl.Series) -> pl.DataFrame:
    """Metrics of each document.

    Args:
        text: strings without nulls, shape (documents,).

    Returns:
        Shape (documents, metrics): the columns METRICS in that order, all Float64.
    """
    documents = pl.DataFrame({"text": text}).with_row_index("document")
    parts = [
        _word_metrics(documents),
        _unit_metrics(documents, "line", pl.col("text").str.split("\n")),
        _unit_metrics(documents, "paragraph", pl.col("text").str.replace_all(r"\n\s*\n", "\n\n").str.split("\n\n")),
    ]
    return pl.concat(parts, how="horizontal").select(pl.col(METRICS).cast(pl.Float64))


def _word_metrics(documents: pl.DataFrame) -> pl.DataFrame:
    """Metrics that count words or symbols."""
    text, words, count = pl.col("text"), pl.col("split"), pl.col("words").clip(lower_bound=1)
    # Split once, in a step of its own: polars would split again for every expression. Runs of spaces leave empty strings.
    split = documents.select("text", split=text.str.replace_many(SPACES, [" "] * len(SPACES)).str.split(" "))
    counted = split.with_columns(words=words.list.eval(pl.element() != "").list.sum())
    return counted.select(
        "words",
        mean_word_length=words.list.eval(pl.element().str.len_chars()).list.sum() / count,
        hash_per_word=text.str.count_matches("#", literal=True) / count,
        ellipsis_per_word=text.str.count_matches(ELLIPSIS) / count,
        alphabetic_word_share=words.list.eval(pl.element().str.contains(r"\p{L}")).list.sum() / count,
        stop_words=pl.sum_horizontal(text.str.contains(rf"(?i)\b{word}\b") for word in STOP_WORDS),
    )


def _unit_metrics(documents: pl.DataFrame, unit: str, split: pl.Expr) -> pl.DataFrame:
    """Metrics of the lines or paragraphs, in the order of the documents."""
    units = documents.select("document", unit=split).explode("unit", empty_as_null=True)
    units = units.with_columns(pl.col("unit").str.strip_chars()).filter(pl.col("unit") != "")
    repeated = ~pl.struct("document", "unit").is_first_distinct()
    measured = (
        units.with_columns(repeated=repeated, size=pl.col("unit").str.len_chars())
        .group_by("document")
        .agg(
            pl.col("repeated").mean().alias(f"duplicate_{unit}_share"),
            (pl.col("repeated") * pl.col("size")).sum().alias("repeated_characters"),
            pl.col("unit").str.contains(BULLET).mean().alias(f"bullet_{unit}_share"),
            pl.col("unit").str.contains(rf"(?:{ELLIPSIS})$").mean().alias(f"ellipsis_{unit}_share"),
        )
    )
    characters = pl.col("text").str.len_chars().clip(lower_bound=1)
    joined = documents.join(measured, on="document", how="left", maintain_order="left")
    wanted = joined.with_columns((pl.col("repeated_characters") / characters).alias(f"duplicate_{unit}_characters"))
    return wanted.select(pl.col([name for name in METRICS if name in wanted.columns]).fill_null(0))
