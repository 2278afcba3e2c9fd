"""Runs on work pools: the chain waits in one process, and its stages run in others.

Read `registration.py` (what Prefect is told), `chain.py` (the parent flow), `dispatcher.py` (how it runs a stage elsewhere),
`stage.py` (what happens there), `workplace.py` (what both have around them).
"""
