"""AudioLDM-2's own way from a prompt to its tokens, which makes the negative condition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GPT2Model

from generate.settings import AudioLDM2Config
from pipeline.attention import MEMORY

_FRAME = 5  # of what GPT-2 reads, all but text and answer: CLAP's embedding, and a start and an end of both


class NegativeEncoder(nn.Module):
    """AudioLDM-2's own way from a prompt to its 8 tokens: CLAP + FLAN-T5 -> projection -> GPT-2."""

    def __init__(self, clap: Any, tokenizer: Any, projection_model: Any, language_model: Any):
        super().__init__()
        self.clap, self.tokenizer = clap, tokenizer
        self.projection_model, self.language_model = projection_model, language_model

    @torch.inference_mode()
    def forward(self, prompt: str, text: Tensor, mask: Tensor) -> Tensor:
        """Prompt and its FLAN-T5 embeddings (1, L, D_t) -> tokens (1, 8, D).

        Of a text that is longer than GPT-2 has positions for, the beginning: it is cut, as the tokenizers do it.

        Our own cached loop: diffusers' ``generate_language_model`` fails for GPT2Model on
        transformers 5 (diffusers issue 12630).
        """
        room = self.language_model.config.n_positions - AudioLDM2Config.tokens - _FRAME
        text, mask = text[:, :room], mask[:, :room]
        tokens = self.tokenizer([prompt], return_tensors="pt", truncation=True).to(text.device)
        clap = self.clap(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).text_embeds
        projected = self.projection_model(
            hidden_states=nn.functional.normalize(clap, dim=-1)[:, None],
            hidden_states_1=text,
            attention_mask=mask.new_ones((1, 1)),
            attention_mask_1=mask,
        )
        return run_language_model(self.language_model, projected.hidden_states, projected.attention_mask)


def run_language_model(model: GPT2Model, inputs: Tensor, mask: Tensor, steps: int = AudioLDM2Config.tokens) -> Tensor:
    """Feed GPT-2's own last state back, keys and values kept: (B, S, D) -> (B, steps, D)."""
    memory, outputs = DynamicCache(), []
    for _ in range(steps):
        hidden = model(inputs_embeds=inputs, attention_mask=mask, **{MEMORY: memory}).last_hidden_state
        inputs = hidden[:, -1:]
        outputs.append(inputs)
        mask = nn.functional.pad(mask, (0, 1), value=1)
    return torch.cat(outputs, dim=1)
