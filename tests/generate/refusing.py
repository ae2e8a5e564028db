"""Writing in a worker on a disk that refuses it; light, as a worker imports it."""

import os

from generate import clip_files

_real = clip_files.write_clip


def write_clip(*arguments, **options):
    """``REFUSED="<errno> <part of a path>"``: what the kernel says when such a file is flushed."""
    number, _, name = os.environ.get("REFUSED", "").partition(" ")
    fsync = os.fsync

    def refuse(descriptor):
        if number and name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(int(number), os.strerror(int(number)))
        return fsync(descriptor)

    os.fsync = refuse
    try:
        return _real(*arguments, **options)
    finally:
        os.fsync = fsync
