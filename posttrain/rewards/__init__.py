"""Reward models, reward functions and judges: whatever turns a prompt and a response into a number.

Reading order: `sources` (what PPO maximises), `functions`, `pool`, `verifiable`, `code`, `sandbox`; `model`, `scorer`,
`checkpoint`, `encoder`; `judge` for evaluation.
"""
