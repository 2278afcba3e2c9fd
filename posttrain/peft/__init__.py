"""PEFT methods: what each does to a model, and how it is saved, loaded and merged.

Reading order: `methods` (the table), `check`, `wrap`, `hf_peft` (methods of the peft library), `merge`, `stacking`; then a file
for each method that the library lacks.
"""
