"""Reading, contracts, encoding and packing of rows.

Reading order: `sources`, `readers`, `preferences` and `conversations` (shapes), `contract`, `validate`, `split`; `tokenizer`,
`chat_templates`, `encode`, `encode_pairs`, `packing`. The sample data: `samples`, `reviews`, `lexicon`, `noise`.
"""
