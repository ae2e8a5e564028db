"""CAVP-micro and TimeChat-micro, on pictures of scenes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from micro.audio import HELD_OUT
from micro.data import FRAME_RATE, LABELS, as_decoded, on_device, pictures, rows_of, training_scenes, waveforms
from micro.fit import Fit, Goal, Machine
from micro.world.scene import SECONDS, Scene
from pipeline.encoders.audiomae import AudioMAE
from pipeline.encoders.cavp import CAVP
from pipeline.encoders.timechat import TimeChat, timestamp_ids
from presets import Preset

_CLIPS, _FIRST = 1536, 100_000
_VALIDATION = 48


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

    def forward(self, frames: Tensor, waveform: Tensor, first: int) -> dict[str, Tensor]:
        """Frames (B, T, 3, S, S) from frame ``first`` on, waveforms (B, 163840) -> losses."""
        seen = self.encoder.project(self.encoder.video_encoder(frames.transpose(1, 2)))
        seen = nn.functional.normalize(seen, dim=-1)
        with torch.no_grad():
            bank = self.bank[0].spectrogram(waveform)
        heard = nn.functional.normalize(self.tower(bank), dim=-1)[:, first : first + seen.shape[1]]
        semantic, temporal = self.scale.exp()
        across = nn.functional.normalize(seen.mean(1), dim=-1) @ nn.functional.normalize(heard.mean(1), dim=-1).T
        within = seen @ heard.transpose(1, 2)  # (B, T, T)
        target = torch.arange(len(seen), device=seen.device)
        times = torch.arange(seen.shape[1], device=seen.device).expand(len(seen), -1).flatten()
        loss_semantic = _both_ways(semantic * across, semantic * across.T, target)
        loss_temporal = _both_ways(
            (temporal * within).flatten(0, 1), (temporal * within.transpose(1, 2)).flatten(0, 1), times
        )
        found = (within.argmax(2).flatten() == times).float().mean()
        return {
            "loss": loss_semantic + loss_temporal,
            "semantic": loss_semantic,
            "temporal": loss_temporal,
            "found": found,
        }


def _both_ways(one: Tensor, other: Tensor, target: Tensor) -> Tensor:
    return (nn.functional.cross_entropy(one, target) + nn.functional.cross_entropy(other, target)) / 2


def train_cavp(preset: Preset, folder: Path, steps: int, machine: Machine, clips: int = 12, length: int = 16) -> CAVP:
    torch.manual_seed(preset.weights.seed + 3)
    device = machine.device
    training = CAVPTraining(CAVP(preset.encoders.cavp), AudioMAE(preset.encoders.audiomae).to(device))
    rows = rows_of(steps, _CLIPS, clips, 4)
    seen = on_device(pictures(preset.media.frame_size, _CLIPS, _FIRST), device)
    heard = on_device(waveforms(_CLIPS, _FIRST), device)

    def step(number: int) -> dict[str, Tensor]:
        first = int(torch.randint(0, preset.media.frames - length + 1, ()))
        frames = as_decoded(seen[rows[number], first : first + length])
        return training(frames, heard[rows[number]].float(), first)

    def held_out() -> dict[str, Tensor]:
        shown = pictures(preset.media.frame_size, _VALIDATION, HELD_OUT, "test")
        frames = as_decoded(shown[:, 12 : 12 + length].to(device))
        audio = waveforms(_VALIDATION, HELD_OUT, "test").to(device).float()
        losses = training(frames, audio, 12)
        return {name: losses[name] for name in ("semantic", "temporal", "found")}

    Fit("cavp", folder, steps, 2e-3, machine=machine, goal=Goal("found", 0.95, higher=True)).run(
        training, step, held_out
    )
    return training.encoder.cpu()


class FrameTraining(nn.Module):
    """ViT and frame Q-Former on single frames: what is seen, how big, how hard, how long since something happened.

    Read from the patches and from what the Q-Former makes of them.
    """

    phases = 6  # of 100 ms since the latest event, and one for longer ago

    def __init__(self, encoder: TimeChat):
        super().__init__()
        self.encoder = encoder
        self.patches = FrameHeads(2 * encoder.config.vit_width, self.phases)
        self.tokens = FrameHeads(encoder.config.qformer_width, self.phases)

    def forward(self, frames: Tensor, ids: Tensor, target: FrameTargets) -> dict[str, Tensor]:
        """Frames (N, 3, S, S), their times as token ids (N, 12) and what they show -> losses."""
        patches = self.encoder.encode_frames(frames)
        pooled = torch.cat([patches.mean(1), patches.amax(1)], dim=-1)
        tokens = self.encoder.frame_tokens(patches, ids)[:, : self.encoder.config.frame_queries].mean(1)
        near, far = self.patches(pooled, target), self.tokens(tokens, target)
        return {**far, "loss": near["loss"] + far["loss"], "patches": near["loss"]}


@dataclass(frozen=True)
class FrameTargets:
    """Of N frames: class (N,), phase since the latest event (N,); size, material and strength of what sounds (N, 3)."""

    label: Tensor
    phase: Tensor
    how: Tensor

    @staticmethod
    def of(scenes: list[Scene], device: str) -> FrameTargets:
        """Of all frames of all scenes, in that order."""
        phases, hows = [], []
        times = np.arange(SECONDS * FRAME_RATE) / FRAME_RATE
        for scene in scenes:
            instants = np.array([-10.0, *scene.onsets])
            latest = np.searchsorted(instants, times, side="right") - 1
            since = times - instants[latest]
            strengths = np.array([0.0, *(event.strength for event in scene.events)])
            strength = scene.level(times) if scene.sustained else np.where(since < 0.5, strengths[latest], 0.0)
            phases.append(np.minimum(since * 10, FrameTraining.phases).astype(np.int64))
            hows.append(np.stack([np.full(len(times), scene.size), np.full(len(times), scene.material), strength], 1))
        label = torch.tensor([LABELS.index(scene.label) for scene in scenes]).repeat_interleave(len(times))
        phase, how = torch.from_numpy(np.concatenate(phases)), torch.from_numpy(np.concatenate(hows)).float()
        return FrameTargets(label.to(device), phase.to(device), how.to(device))

    def rows(self, chosen: Tensor) -> FrameTargets:
        chosen = chosen.to(self.label.device)
        return FrameTargets(self.label[chosen], self.phase[chosen], self.how[chosen])


class FrameHeads(nn.Module):
    """Linear readings of one vector a frame (N, D)."""

    def __init__(self, width: int, phases: int):
        super().__init__()
        self.what, self.phase, self.how = (
            nn.Linear(width, len(LABELS)),
            nn.Linear(width, phases + 1),
            nn.Linear(width, 3),
        )

    def forward(self, read: Tensor, target: FrameTargets) -> dict[str, Tensor]:
        named = self.what(read)
        what = nn.functional.cross_entropy(named, target.label)
        when = nn.functional.cross_entropy(self.phase(read), target.phase)
        error = (self.how(read) - target.how).square()
        size, level = error[:, :2].mean(), error[:, 2].mean()
        right = (named.argmax(1) == target.label).float().mean()
        loss = what + when + 3 * size + 6 * level
        return {"loss": loss, "what": what, "phase": when, "how": size, "level": level, "right": right}


def train_frames(preset: Preset, folder: Path, steps: int, machine: Machine, batch: int = 128) -> TimeChat:
    """TimeChat whose ViT and frame Q-Former are trained; the rest is as drawn."""
    torch.manual_seed(preset.weights.seed + 4)
    encoder, device = TimeChat(preset.encoders.timechat), machine.device
    # BERT draws with a spread of 0.02, right for a width of 768; at 96 signals would die out on the way.
    spread = preset.encoders.timechat.qformer_width**-0.5 / 0.02
    with torch.no_grad():
        for part in (encoder.frame_qformer, encoder.video_qformer, encoder.query_tokens, encoder.video_query_tokens):
            for weight in part.parameters() if isinstance(part, nn.Module) else [part]:
                if weight.ndim > 1:
                    weight.mul_(spread)
    training = FrameTraining(encoder)
    count = preset.media.frames
    rows = rows_of(steps, _CLIPS * count, batch, 6)
    seen = on_device(pictures(preset.media.frame_size, _CLIPS, _FIRST), device).flatten(0, 1)
    target = FrameTargets.of(training_scenes(_CLIPS, _FIRST), device)
    ids = timestamp_ids(torch.arange(count) / FRAME_RATE).to(device)

    def step(number: int) -> dict[str, Tensor]:
        chosen = rows[number]
        return training(as_decoded(seen[chosen]), ids[chosen % count], target.rows(chosen))

    def held_out() -> dict[str, Tensor]:
        places = torch.arange(6, 38, 4)
        frames = pictures(preset.media.frame_size, _VALIDATION, HELD_OUT, "test")[:, places].to(device).flatten(0, 1)
        which = FrameTargets.of(training_scenes(_VALIDATION, HELD_OUT, "test"), device)
        chosen = (torch.arange(_VALIDATION)[:, None] * count + places).flatten()
        losses = training(as_decoded(frames), ids[chosen % count], which.rows(chosen))
        return {name: losses[name] for name in ("right", "phase", "how", "level")}

    Fit("frames", folder, steps, 1.5e-3, average=0.99, machine=machine).run(training, step, held_out)
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
        self.tokens = FrameHeads(width, FrameTraining.phases)

    def forward(
        self, frames: Tensor, target: FrameTargets, onset: Tensor, level: Tensor, how: Tensor, first: int
    ) -> dict[str, Tensor]:
        """Frames (B, T, 3, S, S) from the second ``first`` on, what each shows, and what their scenes do -> losses.

        ``onset`` and ``level`` (B, seconds of these frames, 8), ``how`` (B, 2): size and material.
        """
        count = frames.shape[1]
        ids = timestamp_ids(first + torch.arange(count) / FRAME_RATE).to(frames.device)
        patches = self.encoder.encode_frames(frames.flatten(0, 1))
        tokens = self.encoder.frame_tokens(patches, ids.repeat(len(frames), 1)).unflatten(0, frames.shape[:2])
        windows = self.encoder.window_tokens(tokens, first * FRAME_RATE).mean(2)  # (B, seconds, D), the cached feature
        each = self.tokens(tokens[:, :, : self.encoder.config.frame_queries].mean(2).flatten(0, 1), target)
        label = target.label.view(len(frames), -1)[:, 0]
        named = self.what(windows)
        what = nn.functional.cross_entropy(named.flatten(0, 1), label.repeat_interleave(windows.shape[1]))
        size = (self.how(windows) - how[:, None]).square().mean()
        when = nn.functional.binary_cross_entropy_with_logits(
            self.when(windows), (onset > 0).float(), pos_weight=torch.tensor(3.0, device=onset.device)
        )
        loud = (self.level(windows) - level).square().mean()
        loss = what + 4 * size + 3 * when + 6 * loud + each["loss"]
        right = (named.argmax(2) == label[:, None]).float().mean()
        return {
            "loss": loss,
            "what": what,
            "how": size,
            "when": when,
            "level": loud,
            "right": right,
            "frames": each["loss"],
        }

    @classmethod
    def targets(cls, scene: Scene, windows: int) -> tuple[Tensor, Tensor]:
        """Onset strength and loudness curve, (windows, 8) each."""
        onset, level = torch.zeros(windows * cls.bins), torch.zeros(windows * cls.bins)
        if scene.onsets:
            for event in scene.events:
                place = min(int(event.time * windows * cls.bins / SECONDS), len(onset) - 1)
                onset[place] = level[place] = 0.25 + 0.75 * event.strength
        else:
            centres = (torch.arange(len(level)) + 0.5) * SECONDS / len(level)
            level = torch.from_numpy(scene.level(centres.numpy())).float()
        return onset.view(windows, -1), level.view(windows, -1)


def train_timechat(
    preset: Preset, folder: Path, encoder: TimeChat, steps: int, machine: Machine, clips: int = 24, seconds: int = 3
) -> TimeChat:
    """All of TimeChat, from a ViT and a frame Q-Former that know single frames."""
    torch.manual_seed(preset.weights.seed + 7)
    training, device = TimeChatTraining(encoder), machine.device
    rows = rows_of(steps, _CLIPS, clips, 7)
    length, count = seconds * FRAME_RATE, preset.media.frames
    seen = on_device(pictures(preset.media.frame_size, _CLIPS, _FIRST), device)

    def known(scenes: list[Scene]) -> tuple[FrameTargets, Tensor, Tensor, Tensor]:
        onset, level = (
            torch.stack(parts).to(device)
            for parts in zip(*(TimeChatTraining.targets(scene, SECONDS) for scene in scenes), strict=True)
        )
        how = torch.tensor([[scene.size, scene.material] for scene in scenes], device=device)
        return FrameTargets.of(scenes, device), onset, level, how

    def losses(frames: Tensor, chosen: Tensor, facts: tuple[FrameTargets, Tensor, Tensor, Tensor], first: int) -> Any:
        target, onset, level, how = facts
        places = chosen[:, None] * count + first * FRAME_RATE + torch.arange(length)
        part, rows = slice(first, first + seconds), chosen.to(device)
        return training(
            as_decoded(frames), target.rows(places.flatten()), onset[rows, part], level[rows, part], how[rows], first
        )

    facts = known(training_scenes(_CLIPS, _FIRST))

    def step(number: int) -> dict[str, Tensor]:
        first, chosen = int(torch.randint(0, SECONDS - seconds + 1, ())), rows[number]
        frames = seen[chosen, first * FRAME_RATE : first * FRAME_RATE + length]
        return losses(frames, chosen, facts, first)

    def held_out() -> dict[str, Tensor]:
        frames = pictures(preset.media.frame_size, _VALIDATION, HELD_OUT, "test")[:, 4 * FRAME_RATE :][:, :length]
        scenes = training_scenes(_VALIDATION, HELD_OUT, "test")
        figures = losses(frames.to(device), torch.arange(_VALIDATION), known(scenes), 4)
        return {name: figures[name] for name in ("right", "when", "level", "how")}

    fit = Fit("timechat", folder, steps, 1e-3, average=0.99, machine=machine, goal=Goal("when", 0.03))
    fit.run(training, step, held_out)
    return training.encoder.cpu()
