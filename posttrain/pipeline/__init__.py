"""Which stages a recipe has, their keys and inputs, and what is refused before any of them runs.

Reading order: `chain` (stages, keys, inputs), `preflight` (refusals), `lengths`, `template_check` and `reward_check` (its parts).
"""
