"""Attention over sequences that are never padded.

transformers looks into the mask, or the positions, of every call for tokens to leave out, and the host waits for a
GPU to answer. Under an implementation that it has no mask for, it does not look: causal where the model is,
everything otherwise.
"""

from __future__ import annotations

from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

UNPADDED = "sdpa_unpadded"

AttentionInterface.register(UNPADDED, sdpa_attention_forward)
