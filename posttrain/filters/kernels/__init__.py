"""What the filter computes of every byte of a corpus, with the compiled loops of `posttrain.text.kernels`.

Reading order: `repeats`, `document`, `lines`.
"""
