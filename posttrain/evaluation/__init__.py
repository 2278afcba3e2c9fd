"""Held-out comparison of policies, and the gates that decide promotion.

Reading order: `evaluate` (one stage, policy by policy), `numbers` (metrics and intervals), `held_out` (the rows of a
chain), `gates`, `head_to_head` (against the champion).
"""
