"""Reading, contracts, encoding and packing of rows.

Reading order: `sources`, `source_files`, `hub`, `readers`, `containers`; `messages`, `columns`, `shapes`, and its tables
`pairs`, `comparisons`, `rankings` and `conversations`; `usual` and `plain_rows`, the same quickly, `usual_columns` and
`line_tables`, of whole columns; `contract`, `validate`,
`split`, `mixture`; `tokenizer`, `chat_templates`, `encode`, `turns`, `sides`, `encode_pairs`, `packing`. The sample data:
`samples`, `reviews`, `lexicon`, `noise`, `arithmetic`.
"""
