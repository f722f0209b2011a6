"""How much memory there is to work with, on a CPU or a GPU."""

from pathlib import Path

import torch

SHARE = 1 / 8
"""Of the memory that is free, what a tile may take: others start work too."""
LEAST, MOST = 16 * 2**20, 2**30
"""Bounds of it, in bytes: beyond a gigabyte nothing is gained."""


def working_memory(device: torch.device) -> int:
    """Return the bytes that a piece of work may take on a device without being in the way."""
    return int(min(MOST, max(LEAST, SHARE * free_memory(device))))


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device, a container's limit counted in; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = [free for free in (_of_machine(), _of_container()) if free is not None]
    return min(known, default=0)


def _of_machine() -> int | None:
    """Return what Linux could give out without swapping."""
    try:
        told = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    for line in told.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _of_container() -> int | None:
    """Return what is left under the limit of this process's control group."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text() for name in ("memory.max", "memory.current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None
