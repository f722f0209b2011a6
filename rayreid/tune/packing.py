"""Trials packed onto GPUs: as many a GPU as its memory holds, by what one of them takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayreid.session import session  # noqa: F401 - before ray: it sets what ray reads on import

# isort: split
import ray
import torch

from rayreid.batch import Domain
from rayreid.experiment import Experiment
from rayreid.protocols import Fold
from rayreid.tune.settings import StudySettings
from rayreid.tune.trial import lockstep

MARGIN = 1.25
"""What a trial may take beyond the starting settings: other settings need more, caches fragment."""
CONTEXT = 600 * 2**20
"""Bytes that a process takes on a GPU before it computes anything: CUDA's context and its kernels.
An allowance, not a measurement: torch's counters do not see it."""


@dataclass(frozen=True)
class Footprint:
    """What a trial of the starting settings took at its peak, and what the device has."""

    peak: int
    total: int


def packed(
    settings: StudySettings,
    experiment: Experiment,
    domains: Mapping[str, Domain],
    folds: Sequence[Fold],
) -> tuple[StudySettings, Footprint]:
    """Return settings in which a trial has the part of a GPU that it needs, and what was measured.

    Raises `ValueError` for a cluster without GPUs, and where one does not hold a trial.
    """
    if not ray.cluster_resources().get("GPU", 0):
        raise ValueError("pack shares GPUs between trials, and the cluster has none; leave it away")
    task = ray.remote(num_gpus=1, num_cpus=settings.cpus_per_trial)(footprint)
    found: Footprint = ray.get(task.remote(experiment, domains, folds))
    part = part_of_gpu(found.peak, found.total)
    return settings.model_copy(update={"gpus_per_trial": part}), found


def part_of_gpu(peak: int, total: int) -> float:
    """Return the part of a GPU of ``total`` bytes for a trial that took ``peak`` at most.

    Rounded down to what Ray counts in, a ten-thousandth, so that the parts of all that fit add up
    to no more than one. Raises `ValueError` where not even one fits.
    """
    fit = int(total // (peak * MARGIN + CONTEXT))
    if not fit:
        raise ValueError(
            f"a trial takes {peak / 2**30:.1f} GiB of GPU memory, with margin more than the "
            f"{total / 2**30:.1f} GiB there are; learn from smaller batches, or fewer sources"
        )
    return int(10_000 // fit) / 10_000


def footprint(
    experiment: Experiment, domains: Mapping[str, Domain], folds: Sequence[Fold]
) -> Footprint:
    """Return what a trial takes: all folds' learners after a step of each, and their rankings.

    On a CPU, where nothing is packed, it is the growth of this process's resident memory.
    """
    short = experiment.replaced({"steps_per_epoch": 1})
    if not torch.cuda.is_available():
        before = _resident("VmRSS")
        # Where the kernel does not let the peak be forgotten, an older one counts too.
        Path("/proc/self/clear_refs").write_text("5")
        next(iter(lockstep(short, folds, domains, None)))
        return Footprint(_resident("VmHWM") - before, _of_machine())
    torch.cuda.reset_peak_memory_stats()
    next(iter(lockstep(short, folds, domains, None)))
    # Reserved, not allocated: what the allocator holds on to, nobody else can have.
    return Footprint(torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[1])


def _resident(name: str) -> int:
    return _kilobytes(Path("/proc/self/status"), name)


def _of_machine() -> int:
    return _kilobytes(Path("/proc/meminfo"), "MemTotal")


def _kilobytes(path: Path, name: str) -> int:
    """Return the bytes of an entry that Linux tells in kilobytes."""
    entries: dict[str, Any] = dict(
        line.split(":", 1) for line in path.read_text().splitlines() if ":" in line
    )
    return int(entries[name].split()[0]) * 1024
