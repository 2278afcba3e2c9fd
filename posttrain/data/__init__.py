"""Reading, contracts, encoding and packing of rows.

Reading order: `sources`, `source_files`, `hub`, `readers`, `containers`, `preferences` and `conversations` (shapes), `contract`,
`validate`, `split`, `mixture`; `tokenizer`, `chat_templates`, `encode`, `encode_pairs`, `packing`. The sample data: `samples`,
`reviews`, `lexicon`, `noise`.
"""
