"""The store, processes, devices and progress. Knows no model.

Reading order: `store`, `provenance`, `progress`, `device`, `peak_memory`, `distributed`, `child_processes`, `interruption`,
`hub_revision`.
"""
