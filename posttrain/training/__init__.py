"""One training loop, its objectives, and one file per stage.

Reading order: `stages` (pretrain, SFT, DPO), `loop`, `objectives`, `batches`, `validation`, `checkpoint`; then `reward`, `ppo/`
and `launch/` (several processes).
"""
