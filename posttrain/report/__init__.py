"""The page a person decides from, and the figures on it.

Reading order: `build`, `read`, `page`; then one file for each section.
"""
