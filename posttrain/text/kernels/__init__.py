"""What is computed of every byte of a text: compiled loops that hold no lock, over UTF-8 in Arrow buffers.

Reading order: `compiling`, `characters`, `text`, `folding`, `minhash`.
"""
