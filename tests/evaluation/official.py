"""Official files of the evaluation networks with the recipe's weights, and the golden inputs as media files."""

import math
import wave
from fractions import Fraction

import av
import numpy as np
import torch

from evaluation.networks import NETWORKS, load_network
from tests.recipe import official_state

# What the official files hold besides the network that is compared.
MORE = {
    "vggish": {"pproc.pca_means": torch.zeros(128, 1)},
    "imagebind": {"modality_trunks.text.blocks.0.norm_1.weight": torch.ones(4)},
}
NESTED = {"panns": "model"}
_TICKS = 90_000  # a second, of time stamps


def load_official(name, folder):
    """The network, filled from a file in the authors' layout that is written here and removed again."""
    kind = NETWORKS[name]
    state = official_state(name)
    if name == "imagebind":
        state["modality_postprocessors.audio.1.log_logit_scale"] = torch.tensor(math.log(20))
    state |= MORE.get(name, {})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / kind.files[0].filename
    torch.save({NESTED[name]: state} if name in NESTED else state, path)
    del state
    try:
        return load_network(kind, folder)
    finally:
        path.unlink()


def write_float_wav(path, waveform, rate):
    """A 32-bit float wav (format tag 3), byte by byte: not by the libraries that read it."""
    data = np.ascontiguousarray(np.atleast_2d(waveform).T, "<f4").tobytes()
    channels = np.atleast_2d(waveform).shape[0]
    numbers = np.array([16], "<u4").tobytes() + np.array([3, channels], "<u2").tobytes()
    numbers += np.array([rate, 4 * channels * rate], "<u4").tobytes() + np.array([4 * channels, 32], "<u2").tobytes()
    body = b"WAVEfmt " + numbers + b"data" + np.array([len(data)], "<u4").tobytes() + data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"RIFF" + np.array([len(body)], "<u4").tobytes() + body)


def write_pcm_wav(path, waveform, rate, width):
    """An integer wav of ``width`` bytes a sample, by the standard library; (samples,) or (channels, samples)."""
    samples = np.round(np.atleast_2d(waveform).T * (2 ** (8 * width - 1) - 1)).astype("<i4")
    data = samples.astype("<i4").reshape(-1, 1).view(np.uint8)[:, :width].tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)


def write_lossless(path, frames, times):
    """An mp4 whose RGB frames (H, W, 3) survive to the bit, each shown from its time in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24"
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        stream.options = {"preset": "ultrafast", "qp": "0"}
        for image, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = round(time * _TICKS), Fraction(1, _TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
