"""What a GPU could do: its matrix peak, and how much of its time and memory a learner uses."""

import time
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rayreid.batch import Batch
from rayreid.learner import Learner

MOST = 2**15
"""Images of the largest batch that is tried."""


def bf16_peak(device: torch.device, side: int = 8192, rounds: int = 10) -> float:
    """Return the operations a second of a bf16 product of square matrices, the median's."""
    # Random: zeros multiply faster.
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    seconds = []
    for _ in range(rounds + 3):
        _synchronise(device)
        started = time.perf_counter()
        a @ b
        _synchronise(device)
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / median(seconds[3:])


def usage(learner: Learner, batch: Batch, seconds: float, peak: float) -> dict[str, Any]:
    """Return what a learner uses, whose steps on ``batch`` take ``seconds``; no use of it after.

    Floating-point operations of a step, their share of what the ``peak`` allows, the share of an
    epoch spent waiting for data, and the largest batch that fits.
    """
    with FlopCounterMode(display=False) as counter:
        learner.step(batch, 1.0)
    flops = counter.get_total_flops()
    return {
        "flops_a_step": flops,
        "bf16_peak": peak,
        "share_of_the_peak": flops / seconds / peak,
        "waiting": waited(learner),
        "largest_batch": largest_batch(learner, len(batch.images)),
    }


def waited(learner: Learner) -> float:
    """Return the share of an epoch, not its first, in which a learner waited for data."""
    learner.advance()
    return learner.advance().waiting


def largest_batch(learner: Learner, start: int) -> int:
    """Return the largest of the batches ``start``, twice that, ... that a step has memory for.

    At most `MOST`; 0 where not even ``start`` fits. The learner is of no use afterwards.
    """
    size, fitting = start, 0
    while size <= MOST and _fits(learner, size):
        size, fitting = 2 * size, size
    return fitting


def _fits(learner: Learner, size: int) -> bool:
    try:
        learner.step(batch_of(learner, size), 1.0)
        _synchronise(learner.device)
    except RuntimeError:
        # `torch.OutOfMemoryError`, or another where it is cuDNN that has no memory.
        return False
    return True


def batch_of(learner: Learner, size: int) -> Batch:
    """Return a batch of noise, four crops of each identity as long as there are new ones."""
    loading, device = learner.experiment.loading, learner.device
    number = torch.arange(size, device=device)

    def noise() -> Tensor:
        images = torch.rand(size, 3, loading.height, loading.width, device=device)
        return images.contiguous(memory_format=torch.channels_last)

    zeros = torch.zeros_like(number)
    batch = Batch(noise(), number // 4 % learner.census.total, zeros, zeros)
    target = learner.feed.target
    if target is None:
        return batch
    return replace(batch, target=noise(), target_indices=number % len(target))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
