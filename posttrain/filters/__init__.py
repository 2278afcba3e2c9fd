"""Corpus filtering: metrics of documents, rules on them, copies and near-duplicates, as tasks over files.

Reading order: `corpus`, `plan`, `given`, `ready`, `documents`, `shard`, `metrics`, `rules`, `scores`, `score_rules`, `learned`,
`neural`, `words`, `divergence`, `urls`, `kept_before`, `steps`, `engines`, `worker`, `pieces`, `mixture`, `outputs`,
`summary`.
`kernels/` is what is compiled, `datatrove/` what decides as that library does.
"""
