"""Responses sampled from a policy.

Reading order: `sampler` (the protocol and the default), `decoding` (the loop), `kv_cache`, `multinomial`; `served` (by a server).
"""
