"""Random damage: no hang, no traceback, and no frame but the one that a decoder reading from the start has there.

``python -m tests.pipeline.test_damage [count]`` does ``count`` damages a container and prints the figures.
"""

import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest

from common.errors import ClipError, MFMError
from pipeline.decoding import Call, DecodePool
from pipeline.media import decode_clip, probe, resize_frame
from pipeline.media.container import open_media
from presets.config import MediaConfig
from tests.zoo import ZOO, make_numbered, read_number

CONFIG = MediaConfig(frame_size=64)
NAMES = ["h264.mp4", "h264.mkv", "vp9.webm", "h264.ts", "mpeg4.avi"]
STARTS = (0.0, 8.0)


def damage(data, random):
    """Some bytes flipped, a run of them zeroed or cut out, or the end cut off."""
    data = bytearray(data)
    kind = random.choice(["flipped", "zeroed", "cut out", "cut off"])
    if kind == "flipped":
        for _ in range(int(random.integers(1, 30))):
            data[random.integers(len(data))] ^= 1 << random.integers(8)
        return kind, bytes(data)
    first, length = int(random.integers(len(data))), int(random.integers(1, 1 + len(data) // 10))
    if kind == "zeroed":
        data[first : first + length] = bytes(len(data[first : first + length]))
    elif kind == "cut out":
        del data[first : first + length]
    else:
        del data[first + 1 :]
    return kind, bytes(data)


def read_from_the_start(path):
    """Times and images of all frames, without seeking; AVI has the times of its packets, in their order."""
    times, images, packets = [], [], []
    with open_media(str(path)) as container:
        stream = container.streams.video[0]
        origin = (container.start_time or 0) / av.time_base
        demuxed = container.demux(stream)
        while True:
            try:
                packet = next(demuxed)
            except (StopIteration, av.error.FFmpegError):
                break
            except IndexError:  # of a stream that appears later
                demuxed = container.demux(stream)
                continue
            if packet.size == 0:
                continue
            packet.opaque = [packet.dts]
            stream.codec_context.copy_opaque = True
            packets.append(packet)
            try:
                decoded = stream.codec_context.decode(packet)
            except av.error.FFmpegError:
                continue
            for frame in decoded:
                times.append(frame.opaque[0] if container.format.name == "avi" else frame.pts)
                images.append(resize_frame(frame.to_ndarray(format="rgb24"), 64))
        for frame in stream.codec_context.decode(None):
            times.append(frame.opaque[0] if container.format.name == "avi" else frame.pts)
            images.append(resize_frame(frame.to_ndarray(format="rgb24"), 64))
        if container.format.name == "avi":
            times.sort()
        last = origin
        for place, time in enumerate(times):  # a frame without a time comes right after the last one
            last = times[place] = last + 0.1 if time is None else float(time * stream.time_base)
        return [time - origin for time in times], images


def number_of(image):
    try:
        return read_number(image)
    except ValueError:
        return "unreadable"


def judge(path):
    """Runs in a worker: for each window what became of it, and frames that are not what they should be."""
    outcomes, wrong = [], []
    with suppress(ClipError):
        probe(path)
    reference = None
    for start in STARTS:
        try:
            clip = decode_clip(path, CONFIG, start=start)
        except MFMError as error:
            outcomes.append(error.kind)
            continue
        outcomes.append("decoded" if clip.waveform is not None else f"decoded, sound {clip.audio_fault.kind}")
        reference = reference or read_from_the_start(path)
        times, images = reference
        for moment, image, shown in zip(start + clip.times, clip.frames, clip.shown, strict=True):
            if not shown:
                continue
            before = [place for place, time in enumerate(times) if time <= moment + 1e-3]
            place = max(before, key=times.__getitem__, default=0)
            other = images[place]
            same = np.abs(image.astype(int) - other).mean() < 6
            ours, theirs = number_of(image), number_of(other)
            right = int(moment * 10 + 1e-6)  # in the whole file: better than what the other has
            if same or ours in {theirs, right, right - 1}:
                continue
            if ours in range(right - 6, right):  # the last good frame is held over damage of half a second
                outcomes.append("a frame held")
            elif ours == "unreadable" and theirs not in range(right - 6, right + 1):
                outcomes.append("a frame that both have wrong")  # no decoder noticed it
            else:
                wrong.append((start, float(moment), ours, theirs))
    return outcomes, wrong


def damaged(folder, name, data, count, seed=0):
    random = np.random.default_rng([seed, *name.encode()])
    for number in range(count):
        kind, bad = damage(data, random)
        path = folder / f"{number}_{name}"
        path.write_bytes(bad)
        yield kind, path


def run(folder, name, data, count):
    """Counter of (kind of damage, outcome), and the list of what must not be."""
    counts, bad = Counter(), []
    files = list(damaged(folder, name, data, count))
    with DecodePool(CONFIG, 2, timeout_seconds=60.0) as pool:
        results = pool.map(Call(judge, (path,), path=str(path)) for _, path in files)
        for (kind, path), result in zip(files, results, strict=True):
            if isinstance(result, MFMError):
                bad.append(f"{path.name} ({kind}): {result}")
                continue
            counts.update((kind, outcome) for outcome in result[0])
            bad += [f"{path.name} ({kind}): {wrong}" for wrong in result[1]]
    return counts, bad


@pytest.mark.parametrize("count", [3, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_random_damage(zoo, tmp_path, name, count):
    counts, bad = run(tmp_path, name, zoo(name).read_bytes(), count)
    assert not bad
    assert sum(number for (_, outcome), number in counts.items() if "a frame" not in outcome) == count * len(STARTS)


def main(count):
    with tempfile.TemporaryDirectory() as made:
        for name in NAMES:
            data = make_numbered(Path(made) / name, seconds=20, **ZOO[name]).read_bytes()
            counts, bad = run(Path(made), name, data, count)
            outcomes = Counter(outcome for _, outcome in counts.elements())
            print(f"{name}: {len(bad)} wrong, {dict(outcomes)}")
            print("\n".join(bad), flush=True)


if __name__ == "__main__":
    from tests.pipeline import test_damage  # by a name that workers can import

    test_damage.main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
