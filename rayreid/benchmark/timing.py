"""Timing parts of work beside each other."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median

import torch


def medians(
    parts: Mapping[str, Callable[[], object]], rounds: int, turn: float = 0.0
) -> dict[str, float]:
    """Return the median seconds of a call of each part, all timed in turn after a round to warm up.

    A part has as many calls a turn as fill ``turn`` seconds, where what is measured goes on all the
    time, and finds the caches as it left them, not as another part did.
    """
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    calls = dict.fromkeys(parts, 1)
    for _ in range(1 + rounds):
        for name, part in parts.items():
            started = time.perf_counter()
            for _ in range(calls[name]):
                part()
            taken = (time.perf_counter() - started) / calls[name]
            seconds[name].append(taken)
            calls[name] = max(1, round(turn / max(taken, 1e-9)))
    return {name: median(taken[1:]) for name, taken in seconds.items()}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute in some threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
