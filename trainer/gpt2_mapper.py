"""MFM-Mapper: fused visual features -> 8 pooled AudioMAE vectors, autoregressively (paper section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from pipeline.attention import MEMORY
from trainer.fusion import build_fusion
from trainer.gpt2 import build_gpt2, initialise_gpt2
from trainer.mapper import Mapper, MapperSpec, error_per_clip


class GPT2Mapper(Mapper):
    """[SOS, V_e, EOS, c_1 ... c_8] through GPT-2; the state before c_i predicts c_i.

    Layout and learned SOS and EOS as AudioLDM-2 has them; EOS predicts c_1. The token embedding of
    GPT-2 is never read, so it is not kept.
    """

    def __init__(self, spec: MapperSpec):
        super().__init__(spec)
        steps, width = spec.target
        self.fusion = build_fusion(spec)
        self.sos = nn.Parameter(0.02 * torch.randn(width))
        self.eos = nn.Parameter(0.02 * torch.randn(width))
        self.gpt2 = build_gpt2(spec, sequence=self.fusion.length + 2 + steps)

    def initialise(self, source: str) -> None:
        """Its GPT-2 from :func:`trainer.gpt2.initialise_gpt2`: AudioLDM-2's is the paper's choice."""
        initialise_gpt2(self.gpt2, source)

    def prefix(self, visual: Mapping[str, Tensor]) -> Tensor:
        """[SOS, V_e, EOS]: (B, T_e + 2, D)."""
        fused = self.fusion.fuse(visual)
        batch = len(fused)
        return torch.cat([self.sos.expand(batch, 1, -1), fused, self.eos.expand(batch, 1, -1)], dim=1)

    def teacher_forced(self, visual: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """Predictions of c_1 ... c_8 from the true c_1 ... c_7: (B, T_c, D_c)."""
        prefix = self.prefix(visual)
        inputs = torch.cat([prefix, target[:, :-1].to(prefix.dtype)], dim=1)
        hidden = self.gpt2(inputs_embeds=inputs, use_cache=False).last_hidden_state
        return hidden[:, prefix.shape[1] - 1 :]

    def losses(self, visual: Mapping[str, Tensor], target: Tensor) -> Tensor:
        return error_per_clip(self.teacher_forced(visual, target), target, self.spec.loss)

    @torch.no_grad()
    def predict(self, visual: Mapping[str, Tensor], cached: bool = True) -> Tensor:
        """Feed the model's own outputs back, T_c steps; ``cached`` keeps keys and values between steps."""
        inputs = self.prefix(visual)
        steps = self.spec.target[0]
        outputs: list[Tensor] = []
        memory = DynamicCache() if cached else None
        for _ in range(steps):
            result = self.gpt2(inputs_embeds=inputs, use_cache=cached, **{MEMORY: memory})
            outputs.append(result.last_hidden_state[:, -1:])
            inputs = outputs[-1] if cached else torch.cat([inputs, outputs[-1]], dim=1)
        return torch.cat(outputs, dim=1).float()
