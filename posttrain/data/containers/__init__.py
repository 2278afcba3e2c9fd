"""Files as rows, whatever holds them: what a file is, how it is decompressed, and one reader for each kind of content.

Reading order: `rows` (what every reader gives and is given), `streams`, `sniff`, then the readers `lines`, `values` (with
`json_tables`), `cells` and `columns`.
"""
