"""What is computed of every byte of a corpus: compiled loops that hold no lock, over UTF-8 in Arrow buffers.

Reading order: `compiling`, `characters`, `text`, `repeats`, `document`, `lines`, `folding`, `minhash`.
"""
