"""Cross-attention whose keys and values of a constant condition are computed once a clip, not once a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class KeyReuse:
    """A diffusers attention processor that keeps keys and values of what does not change while sampling."""

    def __init__(self) -> None:
        self.memory: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(
        self,
        attention: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """hidden_states (B, N, D), encoder_hidden_states (B, S, D_c) or None for self-attention -> (B, N, D)."""
        batch, heads = len(hidden_states), attention.heads

        def split(x: Tensor) -> Tensor:
            return x.view(batch, -1, heads, x.shape[-1] // heads).transpose(1, 2)

        query = split(attention.to_q(hidden_states))
        if encoder_hidden_states is None:
            key, value = split(attention.to_k(hidden_states)), split(attention.to_v(hidden_states))
        else:
            if id(attention) not in self.memory:
                self.memory[id(attention)] = (
                    split(attention.to_k(encoder_hidden_states)),
                    split(attention.to_v(encoder_hidden_states)),
                )
            key, value = self.memory[id(attention)]
        if attention_mask is not None:
            attention_mask = attention.prepare_attention_mask(attention_mask, key.shape[2], batch)
            attention_mask = attention_mask.view(batch, heads, -1, attention_mask.shape[-1])
        out = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        out = out.transpose(1, 2).flatten(2).to(query.dtype)
        return attention.to_out[1](attention.to_out[0](out))


@contextmanager
def reusing_keys(unet: Any, enabled: bool = True) -> Iterator[None]:
    """Within it, ``unet`` must be given the same condition at every call."""
    if not enabled:
        yield
        return
    before = unet.attn_processors
    unet.set_attn_processor(KeyReuse())
    try:
        yield
    finally:
        unet.set_attn_processor(before)
