"""The UNet of AudioLDM-2-micro, on latents and conditions computed beforehand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AudioLDM2UNet2DConditionModel, DDIMScheduler
from torch import Tensor, nn

from generate.audioldm2 import Conditioning
from generate.mel import LogMel
from micro.data import classes, rows_of
from micro.fit import Fit, Goal, Machine
from pipeline.encoders.audiomae import AudioMAE
from presets import Preset

_DROP = 0.1
_UNTOLD = 0.3  # share of a batch that is told no label, as users often have none: the tokens alone say what sounds
_VALIDATION = 96


_CONDITIONS, _TOKENS = 3, 1  # transformers behind each resnet: self-attention, tokens, text


class AlignedAttention:
    """A diffusers attention processor that also keeps how badly rows look for their own token.

    ``misses``: mean negative log of the weight that the first half of the heads give to the token of the row's
    own 1.28 s; the other heads look where they like.
    """

    def __init__(self) -> None:
        self.misses: Tensor | None = None

    def __call__(
        self,
        attention: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """hidden_states (B, rows * bins, D), encoder_hidden_states (B, 8, D_c) -> (B, rows * bins, D)."""
        heads, tokens = attention.heads, encoder_hidden_states.shape[1]
        query, key, value = (
            layer(x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for layer, x in (
                (attention.to_q, hidden_states),
                (attention.to_k, encoder_hidden_states),
                (attention.to_v, encoder_hidden_states),
            )
        )
        weights = (query @ key.transpose(2, 3) * attention.scale).softmax(dim=-1)  # (B, H, N, 8)
        count = hidden_states.shape[1]
        own = torch.arange(count, device=key.device) * tokens // count
        hit = weights[:, : heads // 2].gather(3, own.view(1, 1, -1, 1).expand(len(key), heads // 2, -1, 1))
        self.misses = -hit.clamp(min=1e-6).log().mean()
        return attention.to_out[1](attention.to_out[0]((weights @ value).transpose(1, 2).flatten(2)))


class DeepSupervision(nn.Module):
    """Training aids that do not ship: what the UNet's inner features must tell.

    A UNet of convolutions does not know where in the clip a row is, and must, to take from the right token. So
    from the features before each attention a linear layer has to read the row's position, and from those after
    it the clean latents at that level's resolution, which in strong noise only the tokens tell; and half of the
    heads that look at the tokens have to look at the row's own.
    """

    _frequencies = 4

    def __init__(self, unet: Any):
        super().__init__()
        self.unet = unet
        self.seen: dict[str, Tensor] = {}
        positions, latents = {}, {}
        blocks = [("mid", unet.mid_block)] + [(f"up{n}", block) for n, block in enumerate(unet.up_blocks)]
        for name, block in blocks:
            if not getattr(block, "attentions", None):
                continue
            for number, resnet in enumerate(block.resnets):
                key = f"{name}_{number}"
                positions[key] = nn.Conv1d(resnet.out_channels, 2 * self._frequencies, 1)
                resnet.register_forward_hook(self._keep(f"position_{key}"))
            key = f"{name}_out"
            latents[key] = nn.Conv2d(block.resnets[-1].out_channels, unet.config.out_channels, 1)
            block.attentions[-1].register_forward_hook(self._keep(f"latents_{key}"))
        self.aligned: list[AlignedAttention] = []
        for block in [*unet.down_blocks, unet.mid_block, *unet.up_blocks]:
            for number, attention in enumerate(getattr(block, "attentions", None) or []):
                if number % _CONDITIONS == _TOKENS:
                    self.aligned.append(AlignedAttention())
                    attention.transformer_blocks[0].attn2.set_processor(self.aligned[-1])
        self.positions, self.latents = nn.ModuleDict(positions), nn.ModuleDict(latents)

    def _keep(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self.seen[name] = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)

        return hook

    def misses(self) -> Tensor:
        """Of the latest pass of the UNet: :attr:`AlignedAttention.misses`, mean over attentions."""
        return torch.stack([processor.misses for processor in self.aligned if processor.misses is not None]).mean()

    def losses(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Of the latest pass of the UNet: errors of the positions and of the clean latents (B, C, H, W)."""
        position = torch.zeros((), device=clean.device)
        restored = torch.zeros((), device=clean.device)
        for key, head in self.positions.items():
            rows = self.seen[f"position_{key}"].mean(dim=3)  # (B, C, rows)
            place = (torch.arange(rows.shape[2], device=clean.device) + 0.5) / rows.shape[2]
            angles = torch.pi * place * 2.0 ** torch.arange(self._frequencies, device=clean.device)[:, None]
            code = torch.cat([angles.sin(), angles.cos()])
            position = position + (head(rows) - code).square().mean() / len(self.positions)
        for key, head in self.latents.items():
            features = self.seen[f"latents_{key}"]
            pooled = nn.functional.adaptive_avg_pool2d(clean, (features.shape[2], features.shape[3]))
            restored = restored + (head(features) - pooled).square().mean() / len(self.latents)
        return position, restored


def _on(device: str, condition: Conditioning) -> Conditioning:
    return Conditioning(condition.tokens.to(device), condition.text.to(device), condition.mask.to(device))


@torch.no_grad()
def encode_tokens(encoder: AudioMAE, audio: Tensor, batch: int = 48) -> Tensor:
    """Normalised waveforms (N, 163840) -> pooled AudioMAE tokens (N, 8, D)."""
    device = encoder.device
    return torch.cat([encoder.encode_normalised(part.to(device).float()).cpu().clone() for part in audio.split(batch)])


@torch.no_grad()
def encode_latents(vae: Any, audio: Tensor, batch: int = 24) -> Tensor:
    """Waveforms -> scaled latents (N, C, 128, 8)."""
    mel = LogMel()
    mels = (mel(part.to(vae.device).float())[:, None] for part in audio.split(batch))
    return torch.cat([vae.encode(part).latent_dist.mean.cpu() for part in mels]) * float(vae.config.scaling_factor)


def train_unet(
    preset: Preset,
    folder: Path,
    latents: Tensor,
    tokens: Tensor,
    texts: tuple[Tensor, Tensor],
    negative: Conditioning,
    steps: int,
    machine: Machine,
    batch: int = 16,
) -> Any:
    """``texts``: embeddings (classes + 1, L, D_t) and mask (classes + 1, L) of the labels and of the empty prompt.

    A dropped condition is the negative one, tokens and text; other clips have their tokens and the empty prompt.

    Tokens are blurred by noise of up to a quarter of their spread: at generation they come from a mapper, which
    predicts means, not from AudioMAE.
    """
    torch.manual_seed(preset.weights.seed + 1)
    unet: Any = AudioLDM2UNet2DConditionModel(**preset.audio_models.audioldm2.unet)
    scheduler: Any = DDIMScheduler(**preset.audio_models.audioldm2.scheduler)
    count = len(latents) - _VALIDATION  # the last ones are not trained on
    device = machine.device
    latents, tokens = latents.to(device), tokens.to(device)
    rows, label = rows_of(steps, count, batch, 3), classes(len(latents)).to(device)
    spread = float(tokens[:count].std(0).mean())
    length = max(texts[0].shape[1], negative.text.shape[1])
    every = _on(device, Conditioning(tokens[: len(texts[0])].cpu(), *texts).padded(length))
    negative = _on(device, negative.padded(length))

    aids = DeepSupervision(unet)

    def error(chosen: Tensor, drop: float, most: float, untold: float) -> Tensor:
        clean = latents[chosen]
        kind = torch.where(torch.rand(len(chosen), device=device) < untold, len(every.text) - 1, label[chosen])
        dropped = torch.rand(len(chosen), 1, 1, device=device) < drop
        blur = torch.rand(len(chosen), 1, 1, device=device) * most * spread
        known = tokens[chosen]
        condition = torch.where(dropped, negative.tokens, known + blur * torch.randn_like(known))
        text = torch.where(dropped, negative.text, every.text[kind])
        mask = torch.where(dropped[:, 0], negative.mask, every.mask[kind])
        # More often in strong noise, where only the conditions tell what to make: there the timing is decided.
        last = scheduler.config.num_train_timesteps - 1
        times = (torch.rand(len(chosen), device=device).sqrt() * (last + 1)).long().clamp(max=last)
        noise = torch.randn_like(clean)
        noisy = scheduler.add_noise(clean, noise, times)
        target = noise
        if scheduler.config.prediction_type == "v_prediction":
            target = scheduler.get_velocity(clean, noise, times)
        predicted = unet(
            noisy,
            times,
            encoder_hidden_states=condition,
            encoder_hidden_states_1=text,
            encoder_attention_mask_1=mask,
            return_dict=False,
        )[0]
        return (predicted - target).square().mean()

    chosen = torch.zeros(batch, dtype=torch.long, device=device)

    def choose(number: int) -> dict[str, Tensor]:
        chosen.copy_(rows[number])
        return {}

    def step() -> dict[str, Tensor]:
        denoised = error(chosen, _DROP, 0.25, _UNTOLD)
        position, restored = aids.losses(latents[chosen])
        misses = aids.misses()
        loss = denoised + 0.3 * position + 0.5 * restored + 0.2 * misses
        return {"loss": loss, "denoised": denoised, "position": position, "restored": restored, "misses": misses}

    def held_out() -> dict[str, Tensor]:
        last = torch.arange(count, len(latents), device=device)
        return {"loss": error(last, 0.0, 0.0, 0.0), "untold": error(last, 0.0, 0.0, 1.0)}

    fit = Fit("unet", folder, steps, 1.5e-3, warmup=200, average=0.998, machine=machine, goal=Goal("untold", 0.08))
    fit.run(aids, choose, held_out, graph=step)
    return unet.cpu()
