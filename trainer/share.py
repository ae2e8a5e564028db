"""A share of the training clips: the same clips for the same seed, each class by its size."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping

# The split of training clips that a run leaves out.
UNUSED = "unused"


def train_share(labels: Mapping[str, str], share: float, seed: int) -> set[str]:
    """Of clips (id -> label) round(``share`` N), at least one: of every class its share, to within one clip.

    Which of a class follows from ``seed`` and their ids alone. A larger share holds every clip of a smaller one.
    """
    classes = defaultdict(list)
    for clip_id in sorted(labels):
        classes[labels[clip_id]].append(clip_id)
    order: list[tuple[float, float, str]] = []
    for label, clip_ids in classes.items():
        generator = random.Random(f"{seed}/{label}")
        generator.shuffle(clip_ids)
        offset = generator.random()  # which classes get the clips that do not divide evenly
        order += [((place + offset) / len(clip_ids), offset, clip_id) for place, clip_id in enumerate(clip_ids)]
    count = max(1, round(share * len(labels)))
    return {clip_id for _, _, clip_id in sorted(order)[:count]}


def splits_of(clips: Iterable[tuple[str, str, str]], share: float, seed: int) -> dict[str, str]:
    """(id, label, split) of clips -> the split of each, :data:`UNUSED` for training clips beyond the share."""
    rows = list(clips)
    splits = {clip_id: split for clip_id, _, split in rows}
    if share < 1:
        used = train_share({clip_id: label for clip_id, label, split in rows if split == "train"}, share, seed)
        splits |= {clip_id: UNUSED for clip_id, _, split in rows if split == "train" and clip_id not in used}
    return splits
