"""TimeChat's visual path: what is seen, with the time it is seen at.

EVA-CLIP ViT-g/14 -> frame Q-Former that reads a sentence with the frame's time -> Q-Former over
sliding windows of frames. The LLaMA part of TimeChat is not needed and not loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    InstructBlipVisionConfig,
    InstructBlipVisionModel,
)

from common.errors import PresetError, WeightsError
from pipeline.attention import UNPADDED
from pipeline.encoders.base import Encoder, stacked_frames
from pipeline.encoders.cavp import as_float_frames
from pipeline.encoders.checkpoints import Rule, load_checked, read_state
from pipeline.encoders.settings import TimeChatConfig
from pipeline.media import DecodedClip

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# "this frame is sampled at {units}.{tenths} second." in BERT-uncased ids; the digits 0-9 are 1014-1023.
_BEFORE, _POINT, _AFTER, _DIGIT = (101, 2023, 4853, 2003, 18925, 2012), 1012, (2117, 1012, 102), 1014
# All of these, and the padding: a model whose vocabulary is so small has no others.
WORDS = tuple(sorted({0, *_BEFORE, _POINT, *_AFTER, *range(_DIGIT, _DIGIT + 10)}))
_TEXT_FREE = (
    "word_embeddings",
    "position_embeddings",
    ".intermediate.dense",
    ".output.dense",
    ".output.LayerNorm",
)


def timestamp_ids(times: Sequence[float] | np.ndarray | Tensor) -> Tensor:
    """Seconds (T,) in [0, 9.95) -> BERT's token ids (T, 12) of "This frame is sampled at {t} second."

    t is ``round(seconds, 1)`` with Python's rounding, as TimeChat prints it. Raises ValueError for
    times whose digits need the full BERT vocabulary.
    """
    rows = []
    for time in torch.as_tensor(times).tolist():
        rounded = round(float(time), 1)
        if not 0 <= rounded < 10:
            raise PresetError(
                f"media.seconds is too long for TimeChat: frame time {time} s is outside [0, 9.95), as two-digit "
                f"seconds need BERT's vocabulary"
            )
        units, tenths = f"{rounded:.1f}".split(".")
        rows.append([*_BEFORE, _DIGIT + int(units), _POINT, _DIGIT + int(tenths), *_AFTER])
    return torch.tensor(rows, dtype=torch.long)


def _qformer(config: TimeChatConfig, layers: int, every: int, encoder_width: int) -> InstructBlipQFormerModel:
    return InstructBlipQFormerModel(
        InstructBlipQFormerConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.qformer_width,
            intermediate_size=config.qformer_mlp,
            num_hidden_layers=layers,
            num_attention_heads=config.qformer_heads,
            cross_attention_frequency=every,
            encoder_hidden_size=encoder_width,
            attn_implementation=UNPADDED,
        )
    )


class VideoQFormer(nn.Module):
    """Q-Former without text: queries attend to themselves and to the frames of one window.

    Built from transformers' layers without the word and position embeddings and the text feed-forward,
    which this use never reads and the official file does not hold.
    """

    def __init__(self, config: TimeChatConfig):
        super().__init__()
        model = _qformer(config, config.video_qformer_layers, 1, config.qformer_width)
        self.config = model.config
        self.layernorm = model.embeddings.layernorm
        self.encoder = model.encoder
        for layer in self.encoder.layer:
            del layer.intermediate, layer.output

    def forward(self, queries: Tensor, frames: Tensor) -> Tensor:
        """queries (B, Q, D), frames (B, S, D) -> (B, Q, D)."""
        return self.encoder(
            self.layernorm(queries),
            attention_mask=None,
            encoder_hidden_states=frames,
            encoder_attention_mask=None,
            query_length=queries.shape[1],
        ).last_hidden_state


class TimeChat(Encoder):
    """Frames and their times -> one feature a window."""

    name = "timechat"
    full_precision = ("vit.embeddings",)  # the residual path would follow their dtype
    config: TimeChatConfig
    mean: Tensor
    std: Tensor
    words: Tensor

    def __init__(self, config: TimeChatConfig):
        super().__init__(config)
        width = config.qformer_width
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(3, 1, 1), persistent=False)
        self.vit = InstructBlipVisionModel(
            InstructBlipVisionConfig(
                hidden_size=config.vit_width,
                intermediate_size=config.vit_mlp,
                num_hidden_layers=config.vit_layers,
                num_attention_heads=config.vit_heads,
                image_size=config.image_size,
                patch_size=config.patch_size,
                hidden_act="gelu",
                qkv_bias=True,
                layer_norm_eps=1e-6,
            )
        )
        self.vit.post_layernorm.eps = 1e-5  # ``ln_vision`` is LAVIS's LayerNorm, not the ViT's
        self.frame_qformer = _qformer(config, config.frame_qformer_layers, 2, config.vit_width)
        self.video_qformer = VideoQFormer(config)
        self.own_words = config.vocabulary == len(WORDS)
        self.register_buffer("words", torch.tensor(WORDS), persistent=False)
        # Drawn, not zero: with seeded weights identical queries would all give the same output.
        self.query_tokens = nn.Parameter(0.02 * torch.randn(1, config.frame_queries, width))
        self.video_query_tokens = nn.Parameter(0.02 * torch.randn(1, config.video_queries, width))
        self.video_frame_position_embedding = nn.Embedding(config.max_frames, width)
        self.llama_proj = nn.Linear(width, config.llama_width)

    # --- official weights ---------------------------------------------------------------------

    def rules(self) -> Iterator[Rule]:
        for name, tensor in self.state_dict().items():
            shape = tuple(tensor.shape)
            if name.startswith("vit.") and name.endswith(".qkv.bias"):
                attention = _vit_key(name).removesuffix(".qkv.bias")
                part = (shape[0] // 3,)
                sources = (f"{attention}.q_bias", f"{attention}.v_bias")
                yield Rule(name, sources, (part, part), _query_key_value_bias)
            elif name.startswith("vit."):
                yield Rule(name, (_vit_key(name),), (shape,))
            elif name.startswith("frame_qformer."):
                yield Rule(name, (_qformer_key(name, "frame_qformer.", "Qformer.bert."),), (shape,))
            elif name.startswith("video_qformer.layernorm."):
                field = name.rsplit(".", 1)[1]
                yield Rule(name, (f"video_Qformer.bert.embeddings.LayerNorm.{field}",), (shape,))
            elif name.startswith("video_qformer."):
                yield Rule(name, (_qformer_key(name, "video_qformer.", "video_Qformer.bert."),), (shape,))
            else:
                yield Rule(name, (name,), (shape,))

    def load(self, paths: Mapping[str, Path]) -> None:
        """The three files in TimeChat's order: each overrides the one before with what it holds."""
        official: dict[str, Tensor] = {}
        for role in ("vit", "qformer", "timechat"):
            state = read_state(paths[role])
            wanted = [key for key in map(_with_vit_prefix, state) if self._reads(key, role)]
            if not wanted:
                raise WeightsError(f"{paths[role]} holds none of the keys that '{role}' should bring")
            official.update({k: v for k, v in ((_with_vit_prefix(k), v) for k, v in state.items()) if k in wanted})
        key = "video_frame_position_embedding.weight"
        if key in official and official[key].ndim == 2 and len(official[key]) != self.config.max_frames:
            table = official[key].float().T[None]
            official[key] = nn.functional.interpolate(table, size=self.config.max_frames, mode="nearest")[0].T
        owned = ("Qformer.", "query_tokens", "video_", "ln_vision.", "llama_proj.", "visual_encoder.")
        load_checked(
            self,
            self.rules(),
            official,
            files=[paths[role] for role in ("vit", "qformer", "timechat")],
            owned=lambda key: key.startswith(owned) and not self._ignored(key),
        )

    def _reads(self, key: str, role: str) -> bool:
        prefixes = {
            "vit": ("visual_encoder.",),
            "qformer": ("ln_vision.", "Qformer.", "query_tokens"),
            "timechat": ("ln_vision.", "Qformer.", "query_tokens", "video_", "llama_proj."),
        }
        return key.startswith(prefixes[role])

    def _ignored(self, key: str) -> bool:
        """Keys the official files hold and TimeChat never uses."""
        if key.endswith("position_ids") or ".cls." in key:
            return True
        if key.startswith("visual_encoder.blocks."):
            return int(key.split(".")[2]) >= self.config.vit_layers
        if key.startswith("visual_encoder."):
            return key.startswith(("visual_encoder.head", "visual_encoder.norm", "visual_encoder.fc_norm"))
        if key.startswith("Qformer.bert.encoder.layer."):  # depth is a setting: deeper files are cut
            return int(key.split(".")[4]) >= self.config.frame_qformer_layers
        if key.startswith("video_Qformer.bert.encoder.layer."):
            layer = int(key.split(".")[4])
            return layer >= self.config.video_qformer_layers or any(
                f"layer.{layer}{part}" in key for part in _TEXT_FREE
            )
        return key.startswith("video_Qformer.bert.embeddings.") and "LayerNorm" not in key

    # --- the model ----------------------------------------------------------------------------

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Frames (N, 3, H, W) in [0, 1] -> patch tokens (N, 257, 1408) after ``ln_vision``."""
        return self.vit((frames - self.mean) / self.std).last_hidden_state

    def frame_tokens(self, patches: Tensor, ids: Tensor) -> Tensor:
        """Patch tokens (N, P, 1408), time-stamp ids (N, 12) -> (N, 32 + 12, 768).

        All output positions are kept, the text's too, as the authors' code does. A model that has only the sentence's
        words numbers them in BERT's order (:data:`WORDS`).
        """
        if self.own_words:
            ids = torch.searchsorted(self.words, ids)
        queries = self.query_tokens.expand(len(patches), -1, -1)
        ones = torch.ones(len(patches), queries.shape[1] + ids.shape[1], dtype=torch.long, device=ids.device)
        return self.frame_qformer(
            input_ids=ids, attention_mask=ones, query_embeds=queries, encoder_hidden_states=patches
        ).last_hidden_state

    def window_tokens(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Frame tokens (B, T, S, 768) -> (B, windows, 32, 768) with the configured window and stride.

        ``first``: the place in its clip of the first frame, where the tokens are a part of one.
        """
        batch, frames, per_frame, width = tokens.shape
        if first + frames > self.config.max_frames:
            raise PresetError(
                f"encoders.timechat.max_frames is {self.config.max_frames}, and must be at least the {first + frames} "
                f"frames of a clip"
            )
        positions = self.video_frame_position_embedding.weight[first : first + frames]
        tokens = tokens + positions[None, :, None]
        starts = range(0, frames, self.config.stride)
        outputs: list[Tensor] = [tokens.new_empty(0)] * len(starts)
        # Windows of one length run as one batch; only the last ones may be short.
        lengths = [min(self.config.window, frames - start) for start in starts]
        for length in sorted(set(lengths)):
            which = [index for index, value in enumerate(lengths) if value == length]
            windows = torch.stack([tokens[:, starts[i] : starts[i] + length] for i in which], dim=1)
            memory = windows.reshape(batch * len(which), length * per_frame, width)
            result = self.video_qformer(self.video_query_tokens.expand(len(memory), -1, -1), memory)
            for place, index in enumerate(which):
                outputs[index] = result.view(batch, len(which), *result.shape[1:])[:, place]
        return torch.stack(outputs, dim=1)

    @torch.inference_mode()
    def encode(self, frames: Tensor | np.ndarray, times: Sequence[float] | np.ndarray | Tensor) -> Tensor:
        """Frames (B, T, 3, 224, 224), uint8 or float in [0, 1], and times (T,) in seconds.

        Returns float32: ``queries=mean`` (B, windows, 768), ``queries=keep`` (B, windows * 32, 768);
        ``space=llama`` gives 4096 instead of 768. Source: TimeChat ``encode_videoQformer_visual``; the
        window and the mean are readings of ours (docs/readings.md).
        """
        frames = as_float_frames(frames, self.device)
        count = frames.shape[1]
        ids = timestamp_ids(times).to(self.device)
        if len(ids) != count:
            raise ValueError(f"{count} frames but {len(ids)} times")
        tokens = []
        with self.autocast():
            for clip in frames:  # a clip at a time: the ViT's activations are what fills memory
                tokens.append(self.frame_tokens(self.encode_frames(clip), ids))
            windows = self.window_tokens(torch.stack(tokens))
            if self.config.space == "llama":
                windows = self.llama_proj(windows)
        windows = windows.float()
        return windows.mean(dim=2) if self.config.queries == "mean" else windows.flatten(1, 2)

    def encode_clips(self, clips: Sequence[DecodedClip]) -> Tensor:
        """As of every encoder; the clips are sampled at the same times."""
        return self.encode(stacked_frames(clips), clips[0].times)


def _query_key_value_bias(parts: Sequence[Tensor]) -> Tensor:
    query, value = parts
    return torch.cat([query, torch.zeros_like(query), value])  # EVA has no bias on the keys


def _with_vit_prefix(key: str) -> str:
    bare = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.", "head.", "fc_norm.")
    return f"visual_encoder.{key}" if key.startswith(bare) else key


def _vit_key(name: str) -> str:
    key = name.removeprefix("vit.")
    for ours, official in (
        ("post_layernorm", "ln_vision"),
        ("embeddings.class_embedding", "visual_encoder.cls_token"),
        ("embeddings.position_embedding", "visual_encoder.pos_embed"),
        ("embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
        ("encoder.layers", "visual_encoder.blocks"),
        ("self_attn.projection", "attn.proj"),
        ("self_attn", "attn"),
        ("layer_norm", "norm"),
    ):
        key = key.replace(ours, official)
    return key


def _qformer_key(name: str, ours: str, official: str) -> str:
    key = official + name.removeprefix(ours)
    return (
        key.replace("embeddings.layernorm", "embeddings.LayerNorm")
        .replace(".attention.attention.", ".attention.self.")
        .replace("crossattention.attention.", "crossattention.self.")
    )
