"""Corpus filtering: every filter computes metric columns, one declarative policy decides."""
