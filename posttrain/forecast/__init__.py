"""What a run will take before it is paid for: memory and seconds of each stage.

Reading order: `sizing` (a recipe's stages), `phases` and `peaks` (the largest moment of one stage, counted on the
tensors without numbers of `runtime/fake_tensors.py`), `depth` (deep models from shallow traces), `ppo`; then `stage_times` and
`duration` for seconds.
"""
