"""Checks of rows that take more than an expression: one file each. Read `table.py` first, which says when each of them runs."""
