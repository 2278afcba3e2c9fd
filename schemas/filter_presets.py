"""Named sets of rules for documents and lines, each with its source."""

from __future__ import annotations

from schemas.filter_rules import Bounds, FilterRules, LineRules

_REPEATED_RUNS = {
    f"duplicate_{length}gram_characters": Bounds(max=limit)
    for length, limit in {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}.items()
}
_FINEWEB = {
    "punctuated_line_share": Bounds(min=0.12), "short_line_share": Bounds(max=0.67), "newlines_per_word": Bounds(max=0.3),
}  # fmt: skip

PRESETS: dict[str, FilterRules] = {
    "none": FilterRules(),
    # Rae et al. 2021 (Gopher, arXiv 2112.11446), appendix A1.1 and table A1.
    "gopher": FilterRules(
        words=Bounds(min=50, max=100_000),
        mean_word_length=Bounds(min=3, max=10),
        hash_per_word=Bounds(max=0.1),
        ellipsis_per_word=Bounds(max=0.1),
        bullet_line_share=Bounds(max=0.9),
        ellipsis_line_share=Bounds(max=0.3),
        alphabetic_word_share=Bounds(min=0.8),
        stop_words=Bounds(min=2),
        duplicate_line_share=Bounds(max=0.3),
        duplicate_paragraph_share=Bounds(max=0.3),
        duplicate_line_characters=Bounds(max=0.2),
        duplicate_paragraph_characters=Bounds(max=0.2),
        top_2gram_characters=Bounds(max=0.2),
        top_3gram_characters=Bounds(max=0.18),
        top_4gram_characters=Bounds(max=0.16),
        **_REPEATED_RUNS,
    ),
    # Raffel et al. 2020 (T5, arXiv 1910.10683), section 2.2, without its list of words; sentences as in the released C4 filters.
    "c4": FilterRules(sentences=Bounds(min=5), curly_brackets=Bounds(max=0), lorem_ipsum=Bounds(max=0)),
    # Penedo et al. 2024 (FineWeb, arXiv 2406.17557), section 3.6; the code that made it has another limit for repeated lines.
    "fineweb-paper": FilterRules(duplicate_line_characters=Bounds(max=0.1), **_FINEWEB),
    "fineweb-code": FilterRules(duplicate_line_characters=Bounds(max=0.01), **_FINEWEB),
    # Dubey et al. 2024 (Llama 3, arXiv 2407.21783), section 3.1.1: of its rules those that need no list. It takes
    # the coverage by repeated runs from Gopher and gives no limits of its own.
    "llama3": FilterRules(**_REPEATED_RUNS),
}

LINE_PRESETS: dict[str, LineRules] = {
    # As above; the paper drops lines without punctuation at their end too, which costs headings and lists: switch it on by
    # `drop_unpunctuated`.
    "c4": LineRules(min_words=3, max_word_length=1000, drop_ellipsis=True, drop_javascript=True, drop_policy=True),
    "llama3": LineRules(max_repeats=6),
}
"""Presets that have rules for lines."""
