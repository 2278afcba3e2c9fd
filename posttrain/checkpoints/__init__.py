"""A policy on disk and in memory: loading, converting, exporting, and the proof that a copy computes the same.

Reading order: `load`, `unmerged`, `quantization`, `model_cache` (GGUF), `resized`; `export`, `fingerprint`, `round_trip`.
"""
