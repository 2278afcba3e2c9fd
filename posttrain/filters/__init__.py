"""Corpus filtering: metrics of documents, rules on them, and exact duplicates.

Reading order: `corpus`, `metrics`, `rules`, `dedup`, `summary`.
"""
