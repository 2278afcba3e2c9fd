"""Benchmarks: ours and a peer's in one run, as a ratio. `python -m bench` lists them."""
