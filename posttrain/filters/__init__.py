"""Corpus filtering: metrics of documents, rules on them, copies and near-duplicates, as tasks over files.

Reading order: `corpus`, `plan`, `documents`, `shard`, `metrics`, `rules`, `steps`, `engines`, `pieces`,
`outputs`, `summary`; `kernels/` is what is compiled.
"""
