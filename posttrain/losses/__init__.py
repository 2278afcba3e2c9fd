"""Losses as pure functions on tensors, in fp32."""
