"""Data: reading every common shape, contracts for preference pairs and conversations, and filtering for corpora."""
