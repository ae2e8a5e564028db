"""Attention over sequences that are never padded, and the argument of GPT-2 that keeps keys and values.

transformers looks into the mask, or the positions, of every call for tokens to leave out, and the host waits for a
GPU to answer. Under an implementation that it has no mask for, it does not look: causal where the model is,
everything otherwise.
"""

from __future__ import annotations

import inspect

from transformers import AttentionInterface, GPT2Model
from transformers.integrations.sdpa_attention import sdpa_attention_forward

UNPADDED = "sdpa_unpadded"

AttentionInterface.register(UNPADDED, sdpa_attention_forward)

# The argument in which GPT-2 is given the keys and values of earlier steps; transformers 5 renamed it.
MEMORY = "cache" if "cache" in inspect.signature(GPT2Model.forward).parameters else "past_key_values"
