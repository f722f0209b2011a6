"""What it costs to score a pair, by the clock of the thread that does it."""

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rayreid.data.loading import Pixels
from rayreid.data.views import as_images
from rayreid.gallery import Target
from rayreid.matching.tiles import score_all
from rayreid.method import Method

QUERIES, GALLERY = 16, 128
SECONDS = 0.3
"""For which scoring is repeated, after once to warm up."""


@torch.inference_mode()
def cost_per_pair(method: Method, target: Target) -> float:
    """Return the microseconds of scoring a pair of a target's crops, exactly, on one thread.

    Embedding is left out: it is paid a crop, not a pair. On a CPU it is the thread's own time, so
    that trials beside it do not count; on a GPU the wall time, with the device's.
    """
    device = next(method.parameters()).device
    training, threads = method.training, torch.get_num_threads()
    method.eval()
    torch.set_num_threads(1)
    try:
        queries = _embedded(method, target.query_pixels, QUERIES, device)
        gallery = _embedded(method, target.gallery_pixels, GALLERY, device)

        def score() -> None:
            score_all(method, queries, gallery)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        seconds = _seconds_of(score, time.thread_time if device.type == "cpu" else time.time)
    finally:
        torch.set_num_threads(threads)
        method.train(training)
    return 1e6 * seconds / (len(queries) * len(gallery))


def _seconds_of(work: Callable[[], None], clock: Callable[[], float]) -> float:
    """Return the median seconds of a call, after one to warm up."""
    work()
    taken: list[float] = []
    while sum(taken) < SECONDS and len(taken) < 1000:
        began = clock()
        work()
        taken.append(clock() - began)
    return median(taken)


def _embedded(
    method: Method, pixels: Pixels, most: int, device: torch.device
) -> Float[Tensor, "n *e"]:
    crops = pixels[np.arange(min(most, len(pixels)))]
    found: Tensor = method.embed(as_images(torch.from_numpy(crops).to(device))).float()
    return found
