"""How much memory work takes at its peak."""

import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_of(work: Callable[[], object]) -> int | None:
    """Return how many bytes beyond those resident now work takes at its peak; None where untold.

    Work finds a place in what this process has freed and kept: ask in a process of its own.
    """
    try:
        CLEAR.write_text("5")  # the peak begins anew
        before = _resident("VmRSS")
        work()
        return _resident("VmHWM") - before
    except OSError:
        return None


def in_own_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Return what a function of a module returns in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        return alone.submit(function, *arguments).result()


def _resident(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    if not found:
        raise OSError(f"{STATUS} does not tell {name}")
    return 1024 * int(found[1])
