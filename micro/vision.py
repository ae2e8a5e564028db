"""CAVP-micro and TimeChat-micro, on pictures of scenes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from micro.audio import HELD_OUT
from micro.data import FRAME_RATE, LABELS, as_decoded, pictures, rows_of, training_scenes, waveforms
from micro.fit import Fit, Goal
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


def train_cavp(preset: Preset, folder: Path, steps: int, device: str, clips: int = 12, length: int = 16) -> CAVP:
    torch.manual_seed(preset.weights.seed + 3)
    training = CAVPTraining(CAVP(preset.encoders.cavp), AudioMAE(preset.encoders.audiomae).to(device))
    rows = rows_of(steps, _CLIPS, clips, 4)

    def step(number: int) -> dict[str, Tensor]:
        first = int(torch.randint(0, preset.media.frames - length + 1, ()))
        seen, heard = pictures(preset.media.frame_size, _CLIPS, _FIRST), waveforms(_CLIPS, _FIRST)
        frames = as_decoded(seen[rows[number], first : first + length])
        return training(frames.to(device), heard[rows[number]].to(device).float(), first)

    def held_out() -> dict[str, Tensor]:
        frames = as_decoded(pictures(preset.media.frame_size, _VALIDATION, HELD_OUT, "test")[:, 12 : 12 + length])
        audio = waveforms(_VALIDATION, HELD_OUT, "test").to(device).float()
        losses = training(frames.to(device), audio, 12)
        return {name: losses[name] for name in ("semantic", "temporal", "found")}

    Fit("cavp", folder, steps, 2e-3, device=device, goal=Goal("found", 0.95, higher=True)).run(training, step, held_out)
    return training.encoder.cpu()


class FrameTraining(nn.Module):
    """The ViT alone, on single frames: what is seen, how big, how hard, and how long since something happened."""

    phases = 6  # of 100 ms since the latest event, and one for longer ago

    def __init__(self, encoder: TimeChat):
        super().__init__()
        self.encoder = encoder
        width = 2 * encoder.config.vit_width
        self.what = nn.Linear(width, len(LABELS))
        self.phase = nn.Linear(width, self.phases + 1)
        self.how = nn.Linear(width, 3)

    def forward(self, frames: Tensor, scenes: list[Scene], times: list[float]) -> dict[str, Tensor]:
        """Frames (N, 3, S, S), their scenes and times -> losses."""
        patches = self.encoder.encode_frames(frames)
        pooled = torch.cat([patches.mean(1), patches.amax(1)], dim=-1)
        label = torch.tensor([LABELS.index(scene.label) for scene in scenes], device=frames.device)
        phase, how = (
            torch.tensor(values, device=frames.device) for values in zip(*map(self.target, scenes, times), strict=True)
        )
        what = nn.functional.cross_entropy(self.what(pooled), label)
        when = nn.functional.cross_entropy(self.phase(pooled), phase)
        size = (self.how(pooled) - how).square().mean()
        right = (self.what(pooled).argmax(1) == label).float().mean()
        return {"loss": what + when + 4 * size, "what": what, "phase": when, "how": size, "right": right}

    def target(self, scene: Scene, time: float) -> tuple[int, tuple[float, float, float]]:
        """Phase since the latest event; size, material, and strength of what sounds."""
        since, strength = 10.0, 0.0
        if scene.sustained:
            strength = float(scene.level(time))
        for event in scene.events if not scene.sustained else ():
            if event.time <= time:
                since, strength = time - event.time, event.strength
        heard = strength if scene.sustained or since < 0.5 else 0.0
        return min(int(since * 10), self.phases), (scene.size, scene.material, heard)


def train_frames(preset: Preset, folder: Path, steps: int, device: str, batch: int = 128) -> TimeChat:
    """TimeChat whose ViT is trained; the Q-Formers are as drawn."""
    torch.manual_seed(preset.weights.seed + 4)
    training = FrameTraining(TimeChat(preset.encoders.timechat))
    scenes = training_scenes(_CLIPS, _FIRST)
    count = preset.media.frames
    rows = rows_of(steps, _CLIPS * count, batch, 6)

    def step(number: int) -> dict[str, Tensor]:
        clips, places = rows[number] // count, rows[number] % count
        frames = as_decoded(pictures(preset.media.frame_size, _CLIPS, _FIRST)[clips, places]).to(device)
        return training(frames, [scenes[c] for c in clips.tolist()], [p / FRAME_RATE for p in places.tolist()])

    def held_out() -> dict[str, Tensor]:
        frames = as_decoded(pictures(preset.media.frame_size, _VALIDATION, HELD_OUT, "test")[:, 6:38:4]).to(device)
        which = training_scenes(_VALIDATION, HELD_OUT, "test")
        times = [place / FRAME_RATE for place in range(6, 38, 4)]
        losses = training(frames.flatten(0, 1), [s for s in which for _ in times], times * len(which))
        return {name: losses[name] for name in ("right", "phase", "how")}

    Fit("frames", folder, steps, 1.5e-3, average=0.99, device=device, goal=Goal("phase", 0.15)).run(
        training, step, held_out
    )
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

    def forward(self, frames: Tensor, scenes: list[Scene], first: int) -> dict[str, Tensor]:
        """Frames (B, T, 3, S, S) from the second ``first`` on -> losses."""
        count, device = frames.shape[1], frames.device
        ids = timestamp_ids(first + torch.arange(count) / FRAME_RATE).to(device)
        patches = self.encoder.encode_frames(frames.flatten(0, 1))
        tokens = self.encoder.frame_tokens(patches, ids.repeat(len(frames), 1)).unflatten(0, frames.shape[:2])
        windows = self.encoder.window_tokens(tokens, first * FRAME_RATE).mean(2)  # (B, seconds, D), the cached feature
        targets = [self.targets(scene, SECONDS) for scene in scenes]
        onset, level = (
            torch.stack(parts)[:, first : first + windows.shape[1]].to(device) for parts in zip(*targets, strict=True)
        )
        label = torch.tensor([LABELS.index(scene.label) for scene in scenes], device=device)
        how = torch.tensor([[scene.size, scene.material] for scene in scenes], device=device)
        named = self.what(windows)
        what = nn.functional.cross_entropy(named.flatten(0, 1), label.repeat_interleave(windows.shape[1]))
        size = (self.how(windows) - how[:, None]).square().mean()
        when = nn.functional.binary_cross_entropy_with_logits(
            self.when(windows), (onset > 0).float(), pos_weight=torch.tensor(3.0, device=device)
        )
        loud = (self.level(windows) - level).square().mean()
        loss = what + 4 * size + 3 * when + 6 * loud
        right = (named.argmax(2) == label[:, None]).float().mean()
        return {"loss": loss, "what": what, "how": size, "when": when, "level": loud, "right": right}

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


def train_timechat(
    preset: Preset, folder: Path, encoder: TimeChat, steps: int, device: str, clips: int = 24, seconds: int = 3
) -> TimeChat:
    """All of TimeChat, from a ViT that knows single frames."""
    torch.manual_seed(preset.weights.seed + 7)
    # BERT draws with a spread of 0.02, right for a width of 768; at 96 signals would die out on the way.
    spread = preset.encoders.timechat.qformer_width**-0.5 / 0.02
    with torch.no_grad():
        for part in (encoder.frame_qformer, encoder.video_qformer, encoder.query_tokens, encoder.video_query_tokens):
            for weight in part.parameters() if isinstance(part, nn.Module) else [part]:
                if weight.ndim > 1:
                    weight.mul_(spread)
    training = TimeChatTraining(encoder)
    scenes = training_scenes(_CLIPS, _FIRST)
    rows = rows_of(steps, _CLIPS, clips, 7)
    length = seconds * FRAME_RATE

    def step(number: int) -> dict[str, Tensor]:
        first = int(torch.randint(0, SECONDS - seconds + 1, ()))
        seen = pictures(preset.media.frame_size, _CLIPS, _FIRST)
        frames = as_decoded(seen[rows[number], first * FRAME_RATE : first * FRAME_RATE + length])
        return training(frames.to(device), [scenes[row] for row in rows[number].tolist()], first)

    def held_out() -> dict[str, Tensor]:
        frames = as_decoded(
            pictures(preset.media.frame_size, _VALIDATION, HELD_OUT, "test")[:, 4 * FRAME_RATE :][:, :length]
        )
        losses = training(frames.to(device), training_scenes(_VALIDATION, HELD_OUT, "test"), 4)
        return {name: losses[name] for name in ("right", "when", "level", "how")}

    fit = Fit("timechat", folder, steps, 1e-3, average=0.99, device=device, goal=Goal("when", 0.03))
    fit.run(training, step, held_out)
    return training.encoder.cpu()
