"""Benchmarks of lm-eval: every policy on the same documents, and how far the candidate is behind its ancestors.

Reading order: `stage` (policy by policy), `tasks` (which tasks, and what they may run), `harness` (one policy on one benchmark),
`numbers` (scores and paired differences).
"""
