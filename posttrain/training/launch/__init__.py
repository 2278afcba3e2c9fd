"""Training in processes of their own: what starts them, what they are asked for, and what they report.

Reading order: `launcher`, `worker`, `messages`.
"""
