"""One decode of one clip -> frames uint8 (40, 224, 224, 3) and waveform float32 (160000,).

Paper section 4.1.2: 10 s at 4 frames per second; longer clips are cut, shorter ones zero-padded.
Frames are sampled by presentation time, not by index times average rate, and both streams are placed
on the container's common time line, so variable frame rates and late streams stay in step.

Nothing here is safe against a decoder that never returns: :mod:`pipeline.decoding` calls it in workers.
"""

from pipeline.media.clip import BACKENDS, DecodedClip, decode_clip, is_silent, second_backend
from pipeline.media.container import MediaInfo, check_file, probe
from pipeline.media.grid import display_aspect, frames_on_grid
from pipeline.media.picture import resize_frame
from pipeline.media.sound import decode_waveform

__all__ = [
    "BACKENDS",
    "DecodedClip",
    "MediaInfo",
    "check_file",
    "decode_clip",
    "decode_waveform",
    "display_aspect",
    "frames_on_grid",
    "is_silent",
    "probe",
    "resize_frame",
    "second_backend",
]
