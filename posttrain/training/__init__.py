"""One training loop, its objectives, and one file per stage.

Reading order: `request` (what a stage is asked for), `sft`, `fit` (what stages share), `loop`, `objectives`, `batches`,
`validation`, `checkpoint`; then `dpo`, `pretrain`, `reward`, `ppo/` and `launch/` (several processes).
"""
