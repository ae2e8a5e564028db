"""How much memory is left, on this machine and on a device: what decides whether a cache is loaded whole."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

_CGROUPS = Path("/sys/fs/cgroup")


def host_bytes(cgroups: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes left to this process: of the machine, and of the container or batch job that it runs in.

    The machine's figure alone is wrong where a scheduler gives a job less than the machine has (cgroup v2).
    """
    free = int(psutil.virtual_memory().available)
    try:
        name = next(line[3:] for line in membership.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return free
    group = cgroups / name.lstrip("/")
    while group != cgroups.parent:
        try:
            limit = (group / "memory.max").read_text().strip()
            if limit != "max":
                statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                # Files that the kernel keeps in memory count as used, but go as soon as somebody needs the room.
                used = int((group / "memory.current").read_text()) - int(statistics.get("inactive_file", 0))
                free = min(free, int(limit) - used)
        except (OSError, ValueError):
            pass  # the root has no limit; a container may see only a part of the tree
        group = group.parent
    return max(0, free)


def device_bytes(device: torch.device) -> int | None:
    """Bytes that are free on a GPU; None for a device whose memory is the machine's own."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.mem_get_info(device)[0])
