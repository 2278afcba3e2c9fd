"""Which stages a recipe has, their keys and inputs, and what is refused before any of them runs.

Reading order: `stages` (the table: what decides a key), `chain` (the stages of one recipe on one store), `preflight` (refusals),
`lengths`, `vocabulary_check`, `template_check` and `reward_check` (its parts).
"""
