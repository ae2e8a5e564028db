"""Runs of the trainer one after the other, in this process or in each of several.

    torchrun --standalone --nproc_per_node 2 -m tests.trainer.several CACHE FOLDER JOBS.json

A job is ``[run, assignments, extras]``. What every process saw is in ``FOLDER/<number of job>.json``, one entry each.
"""

import json
import os
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from accelerate.utils import gather_object

from pipeline.cache import open_store
from presets import load_preset
from tests.tiny import TINY
from trainer import data
from trainer.train import Trainer, TrainingError

SETTINGS = ["training.epochs=1", "mapper.layers=1", "training.log_every=2", "mapper.dropout=0.0"]


def noise_of_the_clip():
    """A diffusion mapper draws noise for each process: here the noise follows from the clip, to compare runs."""
    stack = ExitStack()
    stack.enter_context(patch.object(torch, "randn_like", lambda tensor: torch.sin(100 * tensor)))
    stack.enter_context(patch.object(torch, "randint", lambda low, high, size, device: torch.full(size, high // 3)))
    return stack


def conditioned():
    """AdamW with a larger epsilon, and no pictures.

    The usual one turns a gradient of rounding errors, which a few of 100,000 weights have, into whole steps: these
    differ after any change in the order of a sum, and say nothing of how processes exchange gradients.
    """
    stack = ExitStack()
    stack.enter_context(patch.object(torch.optim, "AdamW", partial(torch.optim.AdamW, eps=1e-3)))
    stack.enter_context(patch("trainer.run_folder.draw_curves"))
    return stack


def work(store, folder, run, assignments, extras=()):
    """Train, and say what this process saw."""
    seeds = []
    with ExitStack() as stack:
        if "as it is" not in extras:
            stack.enter_context(conditioned())
        if "diffusion" in extras:
            stack.enter_context(noise_of_the_clip())
        if "little memory on one" in extras and os.environ["RANK"] == "1":
            stack.enter_context(patch.object(data, "host_bytes", lambda: 0))
        trainer = Trainer(load_preset(TINY, [*SETTINGS, *assignments]), store, Path(folder) / run, "cpu")
        if "nan" in extras:
            trainer.data.arrays["cavp"][trainer.data.joined.clip_ids.index("clip003")] = float("nan")
        try:
            outcome = trainer.fit(lambda done, total, note: seeds.append(torch.initial_seed()))
            notes, error = outcome.notes, ""
        except TrainingError as fault:
            notes, error = [], str(fault)
    return {
        "world": trainer.accelerator.num_processes,
        "how": trainer.data.how,
        "seed": seeds[-1] if seeds else None,
        "notes": notes,
        "error": error,
        "loss": trainer.metrics[-1]["train_loss"] if trainer.metrics else None,
        "validation": trainer.metrics[-1].get("validation_loss") if trainer.metrics else None,
    }


def main():
    cache, folder, jobs = sys.argv[1:]
    for number, job in enumerate(json.loads(Path(jobs).read_text())):
        seen = gather_object([work(open_store(cache), folder, *job)])
        if os.environ["RANK"] == "0":
            (Path(folder) / f"{number}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
