"""Held-out comparison of policies, and the gates that decide promotion.

Reading order: `evaluate` (one stage, policy by policy), `numbers` (metrics and intervals), `gates`, `head_to_head` (against the
champion).
"""
