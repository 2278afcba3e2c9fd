"""`filtering.variant: datatrove`: the metrics as datatrove 0.10 counts them, for those who need the corpus that it would keep.

Reading order: `words`, `lines`, `metrics`. In plain Python, with spaCy's words: as slow as a tenth of our own definitions, and
several times as fast as datatrove, since each word is taken apart once.
"""
