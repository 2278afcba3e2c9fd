"""What a text holds, whoever asks: the data contract or the corpus filter. Copies, language, personal data, overlap.

Reading order: `buffers`, `copies`, `near`, `plain`, `language`, `personal_data`, `overlap`; `kernels/` is what is compiled.
"""
