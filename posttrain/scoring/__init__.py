"""Log-probabilities of completions under a policy, without holding the logits.

Reading order: `scorer`, `layouts` (how a batch is packed), `output_head`, `segment_attention`, `attention_mask`; `reference` for
the policy at step 0.
"""
