"""The language side of AudioLDM-2-micro: FLAN-T5, CLAP's text half, projection and the text-to-audio GPT-2."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AudioLDM2ProjectionModel
from torch import Tensor, nn
from transformers import ClapTextConfig, ClapTextModelWithProjection, GPT2Config, GPT2Model

from generate.negative import NegativeEncoder
from generate.settings import AudioLDM2Config
from micro.data import LABELS, classes, rows_of
from micro.fit import Fit, Machine
from pipeline.encoders.flan_t5 import FlanT5, byte_tokenizer
from presets import Preset


class TextToAudio(nn.Module):
    """Prompt -> 8 AudioMAE tokens, with the contrast to audio that makes the text encoders mean something."""

    def __init__(self, preset: Preset):
        super().__init__()
        config, width = preset.audio_models.audioldm2, preset.encoders.audiomae.width
        self.flan_t5 = FlanT5(preset.encoders.flan_t5)
        tokenizer = byte_tokenizer(preset.encoders.flan_t5.max_tokens)
        clap = ClapTextConfig(**config.clap, vocab_size=max(512, len(tokenizer)))
        text = preset.encoders.flan_t5.width
        language_model = GPT2Model(
            GPT2Config(**config.language_model, initializer_range=config.language_model["n_embd"] ** -0.5)
        )
        language_model.wpe.weight.data.copy_(_waves(*language_model.wpe.weight.shape))
        self.language = NegativeEncoder(
            ClapTextModelWithProjection(clap),
            tokenizer,
            AudioLDM2ProjectionModel(clap.projection_dim, text, width),
            language_model,
        )
        self.audio_to_clap = nn.Linear(width, clap.projection_dim)
        self.audio_to_text = nn.Linear(width, text)

    def forward(self, prompts: Sequence[str], tokens: Tensor, contrast: Tensor) -> dict[str, Tensor]:
        """Prompts (B), their clips' tokens (B, 8, D), and which rows are labels (B,) -> losses."""
        encoded = self.flan_t5.tokenizer(list(prompts), padding=True, return_tensors="pt").to(tokens.device)
        text = self.flan_t5.model(encoded.input_ids, encoded.attention_mask).last_hidden_state
        clap = self.language.clap(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask).text_embeds
        clap = nn.functional.normalize(clap, dim=-1)
        projected = self.language.projection_model(
            hidden_states=clap[:, None],
            hidden_states_1=text,
            attention_mask=encoded.attention_mask.new_ones((len(prompts), 1)),
            attention_mask_1=encoded.attention_mask,
        )
        mask = nn.functional.pad(projected.attention_mask, (0, AudioLDM2Config.tokens - 1), value=1)
        inputs = torch.cat([projected.hidden_states, tokens[:, :-1]], dim=1)
        # Padding sits between text and tokens, and GPT-2 counts positions over it: give each row its own count.
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        hidden = self.language.language_model(
            inputs_embeds=inputs, attention_mask=mask, position_ids=positions
        ).last_hidden_state
        length = projected.hidden_states.shape[1]
        error = (hidden[:, length - 1 :] - tokens).square().mean()
        mean = tokens.mean(1)
        weight = encoded.attention_mask[..., None]
        pooled = (text * weight).sum(1) / weight.sum(1)
        agreement = self._contrast(clap, self.audio_to_clap(mean), contrast)
        agreement = agreement + self._contrast(
            nn.functional.normalize(pooled, dim=-1), self.audio_to_text(mean), contrast
        )
        return {"loss": error + 0.3 * agreement, "error": error, "contrast": agreement}

    @staticmethod
    def _contrast(text: Tensor, audio: Tensor, chosen: Tensor) -> Tensor:
        similarity = 10 * text[chosen] @ nn.functional.normalize(audio[chosen], dim=-1).T
        target = torch.arange(len(similarity), device=similarity.device)
        return nn.functional.cross_entropy(similarity, target) + nn.functional.cross_entropy(similarity.T, target)


def _waves(positions: int, width: int) -> Tensor:
    """Position embeddings (positions, width) to begin with, as large as what they are added to.

    GPT-2 draws them far smaller; a mapper that starts from there finds late which rows are a token's own.
    """
    rates = 100.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(positions)[:, None] * rates
    return 1.5 * torch.cat([angles.sin(), angles.cos()], dim=1)


def _vary(label: str, source: random.Random) -> str:
    """A label as people type it: other case, a slip of the finger."""
    if source.random() < 0.3:
        label = source.choice([label.upper(), label.title(), f"a {label}", label.split()[0]])
    if source.random() < 0.2:
        place = source.randrange(len(label))
        label = label[:place] + source.choice("abcdefghijklmnopqrstuvwxyz") + label[place + 1 :]
    return label


def train_text(preset: Preset, folder: Path, tokens: Tensor, steps: int, machine: Machine) -> TextToAudio:
    """``tokens`` (N, 8, D) of the training sounds. The negative prompt stands for any sound."""
    torch.manual_seed(preset.weights.seed + 5)
    model = TextToAudio(preset)
    rows, label, tokens = rows_of(steps, len(tokens), 48, 5), classes(len(tokens)), tokens.to(machine.device)

    def step(number: int) -> dict[str, Tensor]:
        chosen, source = rows[number], random.Random(number)
        prompts = [_vary(LABELS[int(c)], source) for c in label[chosen]]
        named = torch.ones(len(chosen), dtype=torch.bool)
        for row in range(0, len(prompts), 8):
            prompts[row] = source.choice([preset.generation.negative_prompt, ""])
            named[row] = False
        return model(prompts, tokens[chosen], named)

    Fit("text", folder, steps, 1e-3, average=0.99, machine=machine).run(model, step)
    return model.cpu()


def save_text(model: TextToAudio, folder: Path) -> None:
    """As in the diffusers folder of AudioLDM-2; the same bytes whatever the tokenizer was used for before."""
    for tokenizer in (model.language.tokenizer, model.flan_t5.tokenizer):
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    parts: dict[str, Any] = {
        "text_encoder": model.language.clap,
        "tokenizer": model.language.tokenizer,
        "projection_model": model.language.projection_model,
        "language_model": model.language.language_model,
        "text_encoder_2": model.flan_t5.model,
        "tokenizer_2": model.flan_t5.tokenizer,
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
