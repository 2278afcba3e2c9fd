"""The report of a run: one self-contained HTML file from which a person decides about a promotion."""
