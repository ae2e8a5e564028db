"""CAVP-micro and TimeChat-micro, on scenes rendered as they train."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from manifests.scene import SECONDS, Scene
from manifests.world import render_waveform
from micro.data import LABELS, SAMPLES, frames, training_scenes
from micro.fit import Fit
from pipeline.encoders.audiomae import AudioMAE, normalise_waveform
from pipeline.encoders.cavp import CAVP
from pipeline.encoders.timechat import TimeChat, timestamp_ids
from presets import Preset

_FRAME_RATE = 4


def _pictures(scenes: list[Scene], size: int) -> Tensor:
    """(B, 40, 3, size, size) in [0, 1], resized as ``pipeline.media`` does; blurred and noised like H.264 does."""
    clips = frames(scenes, _FRAME_RATE)
    batch, count = clips.shape[:2]
    small = clips.flatten(0, 1).float() / 255
    if torch.rand(()) < 0.5:
        small = nn.functional.avg_pool2d(nn.functional.pad(small, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pictures = nn.functional.interpolate(small, (size, size), mode="bilinear", antialias=True)
    return (pictures + 0.01 * torch.randn_like(pictures)).clamp(0, 1).unflatten(0, (batch, count))


class AudioTower(nn.Module):
    """Filter bank (B, 1024, 128) -> one vector every 0.25 s, (B, 40, D): the audio side of the contrast."""

    def __init__(self, width: int):
        super().__init__()
        sizes = (1, 16, 32, 64, 64)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Conv2d(inputs, outputs, 5, 2, 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.time = nn.Conv1d(64 * 8, 128, 3, padding=1)
        self.project = nn.Linear(128, width)

    def forward(self, bank: Tensor) -> Tensor:
        hidden = self.layers(bank[:, None])  # (B, 64, 64, 8): 160 ms a step
        hidden = torch.relu(self.time(hidden.permute(0, 1, 3, 2).flatten(1, 2)))
        whole = round(hidden.shape[-1] * SECONDS / 10.24 * 10) // 10
        return self.project(nn.functional.interpolate(hidden[..., :whole], 40, mode="linear").transpose(1, 2))


class CAVPTraining(nn.Module):
    """Semantic contrast between clips and temporal contrast within a clip (Diff-Foley, stage 1)."""

    def __init__(self, encoder: CAVP, bank: AudioMAE):
        super().__init__()
        self.encoder = encoder
        self.tower = AudioTower(encoder.config.embedding)
        self.scale = nn.Parameter(torch.tensor([2.3, 2.3]))
        self.bank = [bank]  # in a list: its filter bank is used, nothing of it is trained

    def forward(self, pictures: Tensor, waveform: Tensor, first: int) -> dict[str, Tensor]:
        """Pictures (B, T, 3, 224, 224) from frame ``first`` on, waveforms (B, 163840) -> losses."""
        seen = self.encoder.project(self.encoder.video_encoder(pictures.transpose(1, 2)))
        seen = nn.functional.normalize(seen, dim=-1)
        with torch.no_grad():
            bank = self.bank[0].spectrogram(waveform)
        heard = nn.functional.normalize(self.tower(bank), dim=-1)[:, first : first + seen.shape[1]]
        semantic, temporal = self.scale.exp()
        across = nn.functional.normalize(seen.mean(1), dim=-1) @ nn.functional.normalize(heard.mean(1), dim=-1).T
        within = seen @ heard.transpose(1, 2)  # (B, T, T)
        target = torch.arange(len(seen))
        loss_semantic = (
            nn.functional.cross_entropy(semantic * across, target)
            + nn.functional.cross_entropy(semantic * across.T, target)
        ) / 2
        times = torch.arange(seen.shape[1]).expand(len(seen), -1).flatten()
        loss_temporal = (
            nn.functional.cross_entropy((temporal * within).flatten(0, 1), times)
            + nn.functional.cross_entropy((temporal * within.transpose(1, 2)).flatten(0, 1), times)
        ) / 2
        return {"loss": loss_semantic + loss_temporal, "semantic": loss_semantic, "temporal": loss_temporal}


def train_cavp(preset: Preset, folder: Path, steps: int, clips: int = 12, length: int = 16) -> CAVP:
    torch.manual_seed(preset.weights.seed + 3)
    training = CAVPTraining(CAVP(preset.encoders.cavp), AudioMAE(preset.encoders.audiomae))

    def step(number: int) -> dict[str, Tensor]:
        scenes = training_scenes(clips, 100_000 + number * clips)
        first = int(torch.randint(0, 40 - length + 1, ()))
        pictures = _pictures(scenes, preset.media.frame_size)[:, first : first + length]
        waveform = torch.stack([torch.from_numpy(render_waveform(scene)) for scene in scenes])
        return training(pictures, normalise_waveform(waveform, SAMPLES), first)

    Fit("cavp", folder, steps, 2e-3).run(training, step)
    return training.encoder


class TimeChatTraining(nn.Module):
    """What is seen and when: class, size, material, and for each eighth of a second what happens in it."""

    bins = 8  # of a window, 125 ms each

    def __init__(self, encoder: TimeChat):
        super().__init__()
        self.encoder = encoder
        width = encoder.config.qformer_width
        self.what = nn.Linear(width, len(LABELS))
        self.how = nn.Linear(width, 2)
        self.when = nn.Linear(width, self.bins)
        self.level = nn.Linear(width, self.bins)

    def forward(self, pictures: Tensor, scenes: list[Scene]) -> dict[str, Tensor]:
        """Pictures (B, 40, 3, 224, 224) -> losses."""
        count = pictures.shape[1]
        ids = timestamp_ids(torch.arange(count) / _FRAME_RATE)
        patches = self.encoder.encode_frames(pictures.flatten(0, 1))
        tokens = self.encoder.frame_tokens(patches, ids.repeat(len(pictures), 1)).unflatten(0, pictures.shape[:2])
        windows = self.encoder.window_tokens(tokens).mean(2)  # (B, 10, D), the cached feature
        targets = [self.targets(scene, windows.shape[1]) for scene in scenes]
        onset, level = (torch.stack(parts) for parts in zip(*targets, strict=True))
        label = torch.tensor([LABELS.index(scene.label) for scene in scenes])
        how = torch.tensor([[scene.size, scene.material] for scene in scenes])
        what = nn.functional.cross_entropy(self.what(windows).flatten(0, 1), label.repeat_interleave(windows.shape[1]))
        size = (self.how(windows) - how[:, None]).square().mean()
        when = nn.functional.binary_cross_entropy_with_logits(
            self.when(windows), (onset > 0).float(), pos_weight=torch.tensor(3.0)
        )
        loud = (self.level(windows) - level).square().mean()
        return {"loss": what + 4 * size + 3 * when + 6 * loud, "what": what, "how": size, "when": when, "level": loud}

    def targets(self, scene: Scene, windows: int) -> tuple[Tensor, Tensor]:
        """Onset strength and loudness curve, (windows, 8) each."""
        onset, level = torch.zeros(windows * self.bins), torch.zeros(windows * self.bins)
        if scene.onsets:
            for event in scene.events:
                place = min(int(event.time * windows * self.bins / SECONDS), len(onset) - 1)
                onset[place] = level[place] = 0.25 + 0.75 * event.strength
        else:
            centres = (torch.arange(len(level)) + 0.5) * SECONDS / len(level)
            level = torch.from_numpy(scene.level(centres.numpy())).float()
        return onset.view(windows, -1), level.view(windows, -1)


def train_timechat(preset: Preset, folder: Path, steps: int, clips: int = 8) -> TimeChat:
    torch.manual_seed(preset.weights.seed + 4)
    training = TimeChatTraining(TimeChat(preset.encoders.timechat))

    def step(number: int) -> dict[str, Tensor]:
        scenes = training_scenes(clips, 500_000 + number * clips)
        return training(_pictures(scenes, preset.encoders.timechat.image_size), scenes)

    Fit("timechat", folder, steps, 1e-3, average=0.99).run(training, step)
    return training.encoder
