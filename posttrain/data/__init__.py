"""Reading, contracts, encoding and packing of rows.

Reading order: `sources`, `readers`; `messages`, `columns`, `shapes`, and the tables of shapes `pairs`, `comparisons`, `rankings` and
`conversations`; `contract`, `validate`, `split`; `tokenizer`, `chat_templates`, `encode`, `turns`, `encode_pairs`, `packing`. The sample data: `samples`, `reviews`, `lexicon`, `noise`.
"""
