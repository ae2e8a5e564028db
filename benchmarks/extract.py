"""Extraction: one shared decode against three stage runs, and decoding ahead against one clip after another.

    python -m benchmarks.extract [--clips 24 --rounds 3]

Rendered 1280x720 H.264 clips. The first pair runs the micro encoders, so that decoding is what costs; the
second the paper-size CAVP (seeded weights), where the encoder should be what costs.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import interleaved, medians, write_result
from common.runtime import quiet_libraries
from manifests.builders import clips_from_folder
from manifests.manifest import make_manifest
from micro.world.render import KINDS, make_scene, render_frames, render_waveform
from micro.world.scene import FRAMES_PER_SECOND, SAMPLE_RATE
from pipeline.cache import open_store
from pipeline.extract import Extractor
from pipeline.media import decode_clip
from pipeline.media.writing import write_video
from presets import load_preset

STAGE_NAMES = ("cavp", "timechat", "audiomae")


def render(folder: Path, clips: int) -> None:
    for number in range(clips):
        label = list(KINDS)[number % len(KINDS)]
        scene = make_scene(label, number)
        frames = (np.kron(frame, np.ones((4, 5, 1), np.uint8))[:720, :1280] for frame in render_frames(scene))
        path = folder / f"clip{number:03d}.mp4"
        write_video(path, frames, FRAMES_PER_SECOND, render_waveform(scene), SAMPLE_RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    quiet_libraries()
    folder = Path(tempfile.mkdtemp())
    try:
        render(folder / "videos", arguments.clips)
        result = measure(folder, arguments.rounds)
    finally:
        shutil.rmtree(folder)
    write_result("extract", {"clips": arguments.clips, "rounds": arguments.rounds, **result}, arguments.out)


def measure(folder: Path, rounds: int) -> dict[str, object]:
    manifest = make_manifest(clips_from_folder(folder / "videos"), 8)
    micro = load_preset("micro", ["cache.clips_per_shard=8"])
    paper = load_preset("paper", ["weights.source=seeded", "cache.encode_batch=1"])
    shards = list(range(manifest.shard_count))
    runs = iter(range(10_000))
    busy: list[float] = []
    shares: dict[int, float] = {}

    def store():
        return open_store(folder / f"cache{next(runs)}")

    # Encoders and decode workers are started before anything is timed: they live as long as a worker does.
    with (
        Extractor(manifest, store(), micro, STAGE_NAMES) as together,
        Extractor(manifest, store(), paper, ["cavp"]) as overlapped_cavp,
    ):
        separate = [Extractor(manifest, store(), micro, [name]) for name in STAGE_NAMES]

        def rerun(extractor: Extractor) -> None:
            extractor.store = store()
            extractor.claims.files = extractor.store.files
            before = dict(extractor.report.seconds)
            extractor.run(shards)
            after = extractor.report.seconds
            total = after["total"] - before.get("total", 0)
            shares[id(extractor)] = (after["encode"] - before.get("encode", 0)) / total

        def overlapped() -> None:
            rerun(overlapped_cavp)
            busy.append(shares[id(overlapped_cavp)])

        def serial() -> None:
            encoder = overlapped_cavp.encoder("cavp")
            for clip in manifest.clips:
                encoder.encode_clips([decode_clip(clip.path, paper.media, audio=False)])

        times = interleaved(
            {
                "one shared decode": lambda: rerun(together),
                "three stage runs": lambda: [rerun(extractor) for extractor in separate],
            },
            rounds,
        )
        times |= interleaved({"cavp, decoding ahead": overlapped, "cavp, one after another": serial}, rounds)
        for extractor in separate:
            extractor.__exit__()
    middle = medians(times)
    result = {
        "seconds": {name: round(value, 2) for name, value in middle.items()},
        "shared_decode_speedup": round(middle["three stage runs"] / middle["one shared decode"], 2),
        "decoding_ahead_speedup": round(middle["cavp, one after another"] / middle["cavp, decoding ahead"], 2),
        "cavp_busy_share": round(sorted(busy)[len(busy) // 2], 3),
    }
    print(result)
    return result


if __name__ == "__main__":
    main()
