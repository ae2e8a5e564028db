"""Captions of scenes, a small text tower that reads them, and the contrast that CLIP and CLAP are trained by."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from micro.data import LABELS
from micro.world.scene import Scene

_SIZES = ("tiny", "small", "middling", "large", "huge")
_BOUNDS = (0.14, 1 / 3, 2 / 3, 0.86)  # of their sizes; those held out for tests lie around the middle two
# What the material changes of look and sound; of the other classes it changes neither.
_MATERIALS = {
    "ball bouncing": ("rubber", "wooden"),
    "hammer striking": ("dull", "shining"),
    "drum beating": ("plain", "snare"),
}
_OPENINGS = ("", "a", "the", "one")


def attributes(scenes: Sequence[Scene]) -> Tensor:
    """What captions can say of scenes: class, number of the size's word, number of the material's, (N, 3) int64."""
    size = torch.bucketize(torch.tensor([scene.size for scene in scenes]), torch.tensor(_BOUNDS))
    label = torch.tensor([LABELS.index(scene.label) for scene in scenes])
    return torch.stack([label, size, torch.tensor([int(scene.material > 0.5) for scene in scenes])], dim=1)


def _words(label: str, size: str, material: str, opening: str, verb: bool) -> list[str]:
    noun, *rest = label.split()
    return [word for word in (opening, size, material, noun, *(rest if verb else [])) if word]


class Contrast(nn.Module):
    """An encoder, a text tower that does not ship, and what draws the two together.

    A batch has several scenes of a class, and a caption that leaves words out is true of more than its own scene: so
    the targets of the contrast are all pairs in which the caption is true of the scene.
    """

    table: Tensor
    material: Tensor
    chance: Tensor

    def __init__(self, encoder: Any, dimension: int, width: int = 64):
        super().__init__()
        self.encoder = encoder
        # Every caption there is: by opening, if the verb is said, size, material (the last of both: unsaid), class.
        said = [
            _words(label, size, (*_MATERIALS.get(label, ("", "")), "")[material], opening, verb)
            for opening, verb, size, material, label in product(
                _OPENINGS, (False, True), (*_SIZES, ""), range(3), LABELS
            )
        ]
        number = {word: place + 3 for place, word in enumerate(sorted({word for words in said for word in words}))}
        rows = [[2, *(number[word] for word in words), 1] for words in said]  # 0: padding, 1: end, 2: begin
        length = max(map(len, rows))
        self.register_buffer("table", torch.tensor([row + [0] * (length - len(row)) for row in rows]), persistent=False)
        self.text = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=len(number) + 3,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=length,
                projection_dim=dimension,
                pad_token_id=0,
                eos_token_id=1,
                bos_token_id=2,
            )
        )
        # CLIP draws for a width of 512; in so narrow a tower signals would die out on the way.
        with torch.no_grad():
            self.text.text_model.embeddings.token_embedding.weight.mul_(10)
        self.scale = nn.Parameter(torch.tensor(2.66))  # CLIP's: a temperature of 0.07
        self.register_buffer("material", torch.tensor([label in _MATERIALS for label in LABELS]), persistent=False)
        self.register_buffer("chance", torch.tensor([1.0, 0.7, 0.5]), persistent=False)  # that each is said

    def caption(self, about: Tensor, said: Tensor, opening: Tensor, verb: Tensor) -> Tensor:
        """Attributes (B, 3), which of them are said, opening and verb (B,) -> normalised embeddings (B, D)."""
        label, size, material = about.unbind(1)
        size, material = torch.where(said[:, 1], size, len(_SIZES)), torch.where(said[:, 2], material, 2)
        index = (((opening * 2 + verb) * (len(_SIZES) + 1) + size) * 3 + material) * len(LABELS) + label
        return nn.functional.normalize(self.text(input_ids=self.table[index]).text_embeds, dim=-1)

    def forward(self, embedded: Tensor, about: Tensor) -> dict[str, Tensor]:
        """Embeddings of pictures or sounds (B, D), attributes of their scenes (B, 3) -> the loss of both sides."""
        count, device = len(about), about.device
        said = torch.rand(count, 3, device=device) < self.chance
        said[:, 2] &= self.material[about[:, 0]]
        opening = torch.randint(len(_OPENINGS), (count,), device=device)
        text = self.caption(about, said, opening, (torch.rand(count, device=device) < 0.7).long())
        true = ((about[:, None] == about) | ~said).all(dim=2).float()  # (scenes, captions)
        with torch.autocast(device.type, enabled=False):
            scale = self.scale.exp().clamp(max=100)
            logits = scale * nn.functional.normalize(embedded.float(), dim=-1) @ text.float().T
            loss = nn.functional.cross_entropy(logits, true / true.sum(1, keepdim=True))
            loss = (loss + nn.functional.cross_entropy(logits.T, (true / true.sum(0)).T)) / 2
        return {"loss": loss}

    def named(self, embedded: Tensor, about: Tensor) -> dict[str, Tensor]:
        """How often the nearest of the plain labels is right; by how many of 5 words the nearest size is wrong."""
        device = about.device
        embedded = nn.functional.normalize(embedded.float(), dim=-1)
        labels, sizes = torch.arange(len(LABELS), device=device), torch.arange(len(_SIZES), device=device)
        every = torch.cartesian_prod(labels, sizes, labels[:1])
        ones = torch.ones(len(every), dtype=torch.long, device=device)

        def nearest(rows: Tensor, what: list[bool]) -> Tensor:
            said = torch.tensor(what, device=device).expand(len(rows), -1)
            text = self.caption(rows, said, ones[: len(rows)], ones[: len(rows)]).float()
            return embedded @ text.T

        label = nearest(every[:: len(_SIZES)], [True, False, False]).argmax(1)
        size = nearest(every, [True, True, False]).unflatten(1, (len(LABELS), -1))
        size = size[torch.arange(len(about), device=device), about[:, 0]].argmax(1)
        return {"right": (label == about[:, 0]).float().mean(), "size_error": (size - about[:, 1]).abs().float().mean()}
